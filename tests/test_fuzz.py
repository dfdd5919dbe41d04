"""Random command lines, of the real keys with hostile values: every one is a right configuration or one line."""

import importlib
import resource
import signal
import sys
import time
import warnings
from contextlib import contextmanager
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from invariance.cli import command as cli
from invariance.cli import messages
from invariance.errors import UserError
from invariance.launch.heeded import UNREAD
from invariance.settings.files import conf_dir, page_keys
from invariance.settings.pages import GROUPS

PAGES = ("prepare", "train", "layers", "measure", "distance", "finetune", "report", "status", "plan", "dashboard")
MEMORY_KB, CPU_SECONDS = 300_000, 30
SHORT, LONG = 30, 2000

NUMBERS = (
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e400",
    "-1e400",
    "1e308",
    "1e-320",
    "-0.0",
    "0",
    "1",
    "-1",
    "2",
    "0.5",
    "-0.5",
    "5",
    "7",
    "1e9",
    "4096",
    "4097",
    "1_000",
    "0x10",
    ".5",
    "5.0",
    "1000000000",
    str(2**31),
    str(2**53),
    str(2**63),
    str(2**64),
    str(10**30),
    str(-(10**30)),
    str(10**400),
    "1" * 5000,
    "1000000000000",
)
TEXTS = (
    "''",
    "' '",
    '"  "',
    "'5'",
    "'true'",
    "'null'",
    "'nan'",
    "a",
    "own",
    "all",
    "rotation",
    "'a\nb'",
    "'a\rb'",
    "'a\tb'",
    "'a\x1bb'",
    "'\x00'",
    "'a\x00b'",
    "'\ud800'",
    "'\udcff'",
    "'e\u0301'",
    "'\u202e'",
    "..",
    "'../..'",
    "~",
    "'~'",
    "'~nobody/x'",
    "'~root'",
    "/dev/null",
    "/dev/null/x",
    "'a/../b'",
    "'*'",
    "'**'",
    "'['",
    "'[a'",
    "'[!'",
    "'**/..'",
    "'$HOME'",
    "'$NOPE'",
    "'%s'",
    "'{}'",
    "'\\\\'",
    "'\\'",
    "-",
    "--help",
    "a" * 300,
    "'" + "é" * 200 + "'",
    "a/" * 3000 + "b",
    "os.system",
    "invariance.transforms.rotation.Rotation",
    "invariance.transforms.base.Transform",
    "invariance.data.sources.folder.Folder",
    "invariance.models.caffenet.CaffeNet",
    "torch.nn.Linear",
    "builtins.eval",
    "'.'",
    "a.b",
    "test",
    "val",
    "a b",
    "'a=b'",
    "'a,b'",
    "a:b",
    "on",
    "yes",
)
OTHERS = (
    "null",
    "true",
    "false",
    "",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "[{}]",
    "{a: {}}",
    "{a: 1}",
    "{1: 2}",
    "{null: 1}",
    "{'': 1}",
    "{a: {b: {c: [1]}}}",
    "{rotation: {angles: [5, -5]}}",
    "{rotation: {angles: []}}",
    "{rotation: null}",
    "{rotation: {angles: [nan]}}",
    "{rotation: {range: 1e400}}",
    "{rotation: 5}",
    "{rotation: [5]}",
    "{nope: {a: 1}}",
    "{crop: {sizes: [1, 1]}}",
    "{mirror: {}}",
    "{blur: {sigmas: [1e9]}}",
    "{elastic: {alphas: [1e400], sigmas: [0]}}",
    "{perspective: {range: -1}}",
    "{noise: {deviations: [-1]}}",
    "{split: train, images: 5}",
    "{images: 10000000000000}",
    "{split: [train]}",
    "[a,a]",
    "[rotation,rotation]",
    "[error_rate,error_rate]",
    "[own]",
    "[5,-5]",
    "[1e400]",
    "[-45,45]",
    "[[1,2],[3]]",
    "{name: a}",
    "{_target_: invariance.transforms.blur.Blur}",
    "{_target_: os.system}",
    "{kind: csv}",
    "{online_sgd: {rate: nan}}",
    "{rate: 1}",
    "{'': {}}",
    "{a: ???}",
    "[???]",
)
REFERRING = (
    "???",
    "'???'",
    "${seed}",
    "${oc.env:HOME}",
    "${oc.env:NOPE_X}",
    "${oc.env:NOPE_X,null}",
    "${nope}",
    "${nope:1}",
    "${}",
    "${",
    "${.}",
    "${..}",
    "${...nope}",
    "${runs}",
    "${data}",
    "${data.name}",
    "${recipe.rate}",
    "${hydra:job.name}",
    "${hydra:nope}",
    "${hydra.run.dir}",
    "${oc.decode:'[1,2]'}",
    "${oc.create:{a:1}}",
    "${oc.dict.keys:data}",
    "${oc.select:nope}",
    "a${runs}b",
    "[${runs},${runs}]",
    "${oc.deprecated:seed}",
    "${oc.decode:'['}",
    "${oc.decode:null}",
    "${oc.env:[1]}",
    "${${seed}}",
    "${seed}${seed}",
    "{a: ${seed}}",
    "{rotation: ${seed}}",
    "{rotation: {angles: ${nope}}}",
    "${oc.dict.values:recipe}",
    "${trainer}",
    "${data.fit}",
    "${transform}",
    "${transform.angles}",
    "${range}",
    "${name}",
    "${networks}",
    "${oc.select:data,1}",
)
SYNTAX = (
    "1,2",
    "choice(1,2)",
    "range(1,5)",
    "range(0,1000000000)",
    "range(nan,inf)",
    "range(1,5,0)",
    "glob(*)",
    "interval(0,1)",
    "int(abc)",
    "int(nan)",
    "int(inf)",
    "float(a)",
    "str(1)",
    "bool(a)",
    "json_str({a:1})",
    "sort(3,1)",
    "shuffle(1,2)",
    "tag(1)",
    "extend_list(1)",
    "nope(1)",
    "[",
    "]",
    "{",
    "}",
    "{a",
    "'",
    '"',
    "=",
    "==",
    "a=",
    "\\",
    "#",
    "@",
    "&a",
    "*a",
    "!!python/object:os.system",
    "!!python/object/apply:os.system ['true']",
    "|",
    ">",
    "?",
    "- a",
    "a: b",
    "[" * 100 + "]" * 100,
    "[" * 3000 + "]" * 3000,
    "{a:" * 50 + "1" + "}" * 50,
    "{a:" * 1000 + "1" + "}" * 1000,
    "[" + "1," * 2000 + "1]",
    "${" * 50 + "a" + "}" * 50,
    "(" * 1000,
)
TAILS = ("nope", "0", "''", "a.b", "_target_", "range", "x=", "\x00", "é", "@a", "@_global_", ":", "[0]", " ", "-")


@pytest.fixture(scope="module", autouse=True)
def composing():
    """Hydra at the folder of configurations, for all of the module."""
    cli.find_plugins()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for page in PAGES:
            begun(page, [])  # what is imported is none of a case's memory
        yield
    HydraConfig.instance().cfg = None
    GlobalHydra.instance().clear()


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A folder of its own, that is home, too; nobody's W&B, and no sweep around."""
    (home := tmp_path / "a" / "home").mkdir(parents=True)
    (here := tmp_path / "a" / "here").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in (cli.SWEEP_VARIABLE, cli.JOB_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    yield
    assert set(tmp_path.rglob("*")) == {home.parent, home, here}, "something was written"


@cache
def chosen(page, groups):
    """What Hydra composes of a command's files, by what is chosen of its groups: its own part beside."""
    whole = compose(page, overrides=list(groups), return_hydra_config=True)
    hydra = OmegaConf.masked_copy(whole, "hydra")
    with read_write(whole), open_dict(whole):
        del whole["hydra"]
    return whole, hydra


def composed(page, overrides):
    """As `hydra.main` makes it; Hydra's own part is set. What is chosen of groups is composed once, for its pace."""
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create().parse_overrides(overrides)
    loader.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=False)
    if whole := any("hydra" in one for one in overrides):
        groups = parsed
    else:
        there = loader.repository.group_exists
        groups = [one for one in parsed if there(one.key_or_group) and not isinstance(one.value(), dict)]
    config, hydra = chosen(page, tuple(one.input_line for one in groups))
    config, instance = config.copy(), HydraConfig.instance()
    try:
        ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if one not in groups], config)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException from error
    instance.set_config(hydra)
    if not whole:
        OmegaConf.set_readonly(instance.cfg.hydra, False)
        instance.cfg.hydra.overrides.task = overrides
    return config


def begun(page, overrides):
    """A command up to its first computation."""
    config = composed(page, overrides)
    try:
        with cli.attempt(page, config):
            plain = cli.plain_of(page, config)
            heeded(page, overrides, config)
            importlib.import_module(f"invariance.experiments.{page}").check(plain)
            if page in ("measure", "distance", "finetune"):
                from invariance.runs.find import find_runs

                find_runs(cli.folder(plain["runs"], "runs") / "train", plain["networks"])
    except Exception as error:
        return error
    return None


class Unheeded(BaseException):
    """An override that changes nothing, and of which nothing was said."""


def heeded(page, overrides, config):
    """Require that every key that was set is one of the command's, or that something else refers to it.

    Of keys below those at the top the schemas refuse the unknown; of those that the command does not read, none is set.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    deleted = {one.key_or_group for one in parsed if one.is_delete()}
    for one in parsed:
        key = (one.package or one.key_or_group).replace("/", ".")
        top = key.split(".")[0]
        if not one.is_delete() and not any("${" + key in other for other in overrides):
            unread = any(f"{key}.".startswith(f"{one.key}.") and one.always for one in UNREAD.get(page, ()))
            if unread and "${" + key + "}" not in OmegaConf.to_yaml(config):  # model.input_size refers to data's
                raise Unheeded(one.input_line)
        if top in {"hydra", "_global_"} | page_keys(page) | deleted:
            continue
        if not any("${" in other and top in other for other in overrides if other != one.input_line):
            raise Unheeded(one.input_line)


class Hung(BaseException):
    """A command that computes for too long: no error that anything catches."""


@contextmanager
def bounded():
    """Refuse more than some hundred megabytes, or many seconds of computing, or a storm of warnings."""

    def stop(*_):
        raise Hung

    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    held = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, held)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KB
    assert time.process_time() - start < CPU_SECONDS
    told = [one for one in said if not issubclass(one.category, DeprecationWarning)]
    assert not told, [str(one.message) for one in told]


def answer(page, overrides):
    """What a command line is told: None if the command would begin to compute, else the one line."""
    sys.argv = [f"invariance-{page}", *overrides]
    with bounded():
        try:
            error = begun(page, overrides)
        except Exception as raised:
            error = raised
    if error is None or (isinstance(error, UserError) and "there is none at all" in str(error)):
        return None
    line = messages.one_line(error, page)
    if line is None:
        raise error
    assert line.strip() and len(line.splitlines()) == 1, (line, overrides)
    return line


def jobs(arguments):
    """What a command line with -m is told: None if it has jobs, else the one line."""
    from hydra_plugins.invariance_sweeper import FamilySweeper

    from invariance.launch.sweeping import MOST_JOBS

    sys.argv = ["invariance-train", "-m", *arguments]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    with bounded():
        try:
            parts = FamilySweeper.split_arguments(parser.parse_overrides(arguments), None)
        except Exception as error:
            if (line := messages.one_line(error, "train")) is None:
                raise
            assert line.strip() and len(line.splitlines()) == 1, (line, arguments)
            return line
    assert 0 < len(parts[0]) <= MOST_JOBS
    return None


def flat(config, prefix=""):
    """Every key of nested mappings."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")


@cache
def keys(page):
    """The keys of a command: those that its own defaults have, and all that may be set."""
    held = OmegaConf.to_container(composed(page, []), resolve=False)
    return sorted(flat(held)), messages.known_keys(page)


@cache
def choices(page):
    """Its groups, with what there is to choose of each."""
    groups = {key for key in GROUPS if key in page_keys(page)}
    return {group: [path.stem for path in sorted((conf_dir() / group).glob("*.yaml"))] for group in sorted(groups)}


def values():
    """A hostile value, alone or among others."""
    simple = st.sampled_from(NUMBERS) | st.sampled_from(TEXTS)
    several = st.lists(simple, min_size=1, max_size=3)
    listed = st.one_of(
        several.map(lambda some: f"[{','.join(some)}]"),
        simple.map(lambda one: f"[{one},{one}]"),
        several.map(lambda some: f"[[{','.join(some)}]]"),
    )
    pairs = st.tuples(st.sampled_from(("a", "range", "angles", "split", "images", "name", "seed")), simple | listed)
    mapped = pairs.map(lambda pair: f"{{{pair[0]}: {pair[1]}}}")
    odd = st.sampled_from(SYNTAX) | st.text(max_size=8)
    return st.integers(0, 15).flatmap(
        lambda kind: (
            odd
            if kind == 0
            else listed
            if kind < 3
            else mapped
            if kind < 5
            else st.sampled_from(REFERRING)
            if kind < 7
            else st.sampled_from(OTHERS)
            if kind < 10
            else simple
        )
    )


@st.composite
def overrides(draw, page):
    """One to four overrides of a command."""
    own, known = keys(page)
    groups = choices(page)
    some = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 2, 3, 4)))):
        kind = draw(st.integers(0, 31))
        key, sign = draw(st.sampled_from(own)), draw(st.sampled_from(("", "+", "++", "~")))
        if kind == 0:
            some.append(f"~{key}")
        elif kind == 1:
            some.append(f"{sign}{key}={draw(values())}")
        elif kind == 2:
            some.append(f"{sign}{key}.{draw(st.sampled_from(TAILS))}={draw(values())}")
        elif kind == 3:
            some.append(f"{key}=${{{draw(st.sampled_from(own))}}}")
        elif kind == 4:
            some.append(f"{draw(st.sampled_from(known))}={draw(values())}")
        elif kind == 5:
            some.append(draw(st.sampled_from(("+x=1", "~x", "x=1", "=", "x", "", " ", "+", "~", "@=1", "a@b=c"))))
        elif kind < 12 and groups:
            group = draw(st.sampled_from(sorted(groups)))
            there = draw(st.lists(st.sampled_from(groups[group]), min_size=1, max_size=2))
            some.append(f"{group}={there[0]}" if len(there) == 1 or kind < 10 else f"{group}=[{','.join(there)}]")
        else:
            some.append(f"{key}={draw(values())}")
    return some


@st.composite
def sweeps(draw):
    """One to three keys, each with a sweep over hostile values."""
    simple = st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.sampled_from(("5", "10", "-3", "0.1", "7e3"))
    some = []
    for _ in range(draw(st.integers(1, 3))):
        values = draw(st.lists(simple, min_size=1, max_size=4))
        form = draw(
            st.sampled_from(
                (
                    "{0}",
                    "{0}",
                    "choice({0})",
                    "range({0})",
                    "range({0})",
                    "shuffle({0})",
                    "sort({0})",
                    "glob({0})",
                    "interval({0})",
                    "tag(a,choice({0}))",
                    "shuffle(range({0}))",
                    "sort(range({0}),reverse=true)",
                    "[{0}]",
                )
            )
        )
        key = draw(st.sampled_from(("seed", "range", "transform", "network", "data", "recipe.updates", "+x", "~seed")))
        some.append(f"{key}={form.format(','.join(values))}")
    return some


@pytest.mark.parametrize("page", PAGES)
def test_the_defaults_of_every_command_would_begin(page):
    needed = ["model=function", "model.name=mine:network"] if page == "layers" else []  # which has none by default
    assert answer(page, needed) is None


FOUND = [
    ("train", ["data.verify=1"], "unknown key 'data.verify'"),  # the recipe's default refers to the data set
    ("measure", ["solver=[1e9,inf]"], "Hydra cannot compose this configuration (TypeError"),
    ("distance", ["trainer=[[a]]"], "Hydra cannot compose this configuration (TypeError"),
    ("plan", ["+trainer=[7]"], "Hydra cannot compose this configuration (TypeError"),
    ("distance", ["trainer='a\x00b'"], "Hydra cannot compose this configuration (ValueError: embedded null byte)"),
    ("finetune", [f"batch={'1' * 5000}"], "Hydra cannot compose this configuration (ValueError"),
    ("prepare", ["~size"], "size"),
    ("prepare", ["data=${..}"], "the configuration cannot be composed: "),
    ("train", ["+label=my_network"], "unknown key 'label'"),
    ("measure", ["+name=foo"], "unknown key 'name'"),
    ("train", ["+job=1"], "unknown key 'job'"),
    ("train", ["+model@label=tiny"], "unknown key 'label'"),
    ("train", ["+x='${hydra:job.x}'"], "unknown key 'x'"),
    ("train", ["transform=[rotation,shear]", "range=5"], "transform takes one choice"),
    ("train", ["network=[rotation_20,noise_5]"], "network takes one choice"),
    ("train", ["network=[]"], "network takes one choice"),
    ("train", ["logger=[csv,wandb]"], "logger takes one choice"),
    ("plan", ["data=digits", "model=[tiny,small]"], "model takes one choice"),
    ("train", ["network=rotation_20", "transform=blur"], "transform=blur: network=rotation_20 is"),
    ("train", ["network=rotation_20", "range=5"], "network=rotation_20 is of range=20"),
    ("train", ["transform=rotation", "range=20", "transform.name=blur"], "transform.name=blur: rows go by it"),
    ("plan", ["data=digits", "roots={nope: /x}"], "roots.nope"),
    ("plan", ["++data={split: train, images: 5}"], "data={'split': 'train', 'images': 5}: give the name"),
    ("measure", ["trainer.devices=4"], "trainer.devices"),
    ("measure", ["grids=[rotation]", "grid={shear: {angles: [7]}}"], "grid.shear"),
    ("measure", ["grids=[own,all]"], "grids=['own', 'all']"),
    ("prepare", ["plan=true", "renew=true"], "plan=true only says"),
    ("report", ["runs='\x00'"], "runs="),
    ("status", ["runs='a\x00b'"], "runs="),
    ("measure", ["solver.online_sgd.weight_decay=~\x9eÝ\u6ad2\x1fÄ"], "solver.online_sgd.weight_decay"),
    ("prepare", ["data.name.a=z\x1e𮞳\u2028"], "data.name.a=z 𮞳"),
]


@pytest.mark.parametrize(("page", "overrides", "beginning"), FOUND)
def test_what_was_found(page, overrides, beginning):
    assert (answer(page, overrides) or "").startswith(beginning)


@pytest.mark.parametrize(
    "overrides", [["seed=3", "+recipe.rate=1"], ["++runs=a", "~data.fit", "transform=blur", "range=3"]]
)
def test_what_is_composed_once_is_what_hydra_composes(overrides):
    def outcome(make):
        try:
            return make()
        except ConfigCompositionException as error:
            return type(error)

    whole = outcome(lambda: compose("train", overrides=overrides))
    assert outcome(lambda: composed("train", overrides)) == whole


SETTINGS = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate),
    "print_blob": False,
}


@pytest.mark.parametrize("page", PAGES)
@settings(max_examples=SHORT, **SETTINGS)
@given(data=st.data())
def test_a_hostile_command_line_is_right_or_one_line(page, data):
    answer(page, data.draw(overrides(page)))


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
@settings(max_examples=LONG, **SETTINGS)
@given(data=st.data())
def test_thousands_of_hostile_command_lines_are_right_or_one_line(page, data):
    answer(page, data.draw(overrides(page)))


@settings(max_examples=10 * SHORT, **SETTINGS)
@given(arguments=sweeps())
def test_a_hostile_sweep_has_jobs_or_one_line(arguments):
    jobs(arguments)
