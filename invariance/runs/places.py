"""Where measurements of networks that were not trained here lie, and names made fit for folders.

`measure/<data>/<source>/<network>/<grid>/<layer>/<map>`: one run for every layer and map. A layer of which
not all is taken has its readout behind its name, as `blocks.3(mean)`.
"""

import re
from collections.abc import Sequence

_PARTS = 7
_LONGEST = 100


def folder_name(text: str) -> str:
    """A name as a folder's: letters, digits and . _ - # [ ] ( ) are left, everything else becomes _."""
    name = re.sub(r"[^\w.#\[\]()-]+", "_", text)[:_LONGEST]
    return f"_{name[1:]}" if name[:1] in (".", "-") else name


def layer_folder(layer: str, readout: str = "") -> str:
    """The folder of a layer's runs: its name, with its readout where that is not all that the layer gives.

    Args:
        layer: its name.
        readout: how it becomes a vector; flatten, as nothing, is not named, nor are positions, of which maps tell.
    """
    return folder_name(layer) + (f"({folder_name(readout)})" if readout not in ("", "flatten", "positions") else "")


def given_place(data: str, source: str, network: str, grid: str) -> str:
    """The folder of all layers of a network over one grid, below the runs folder.

    Args:
        data: the data set.
        source: where the network is from.
        network: how rows call it.
        grid: the name of the grid.
    """
    return "/".join(["measure", data, folder_name(source), network, grid])


def is_given(place: Sequence[str]) -> bool:
    """Whether a run's path below the runs folder is that of a network that was not trained here."""
    return len(place) == _PARTS and place[0] == "measure"
