#!/bin/sh
# The measurements of docs/transformations.md: sh measure.sh, in a folder with the weights of EfficientNet-Lite0, `photos` (a
# link to the photographs of docs/networks.md) and cifar10_jpg.tar.xz. Given again it goes on from where it was.
set -e
export OMP_NUM_THREADS=1 PYTHONPATH="$(dirname "$0")/../networks"
own='logger=csv trainer=cpu'

# four small networks on CIFAR-10: without transformations, and under one of each library
train() {
  invariance-train $own data=folder data.name=cifar10_jpg data.root=cifar10_jpg.tar.xz data.input_size=56 \
    data.val_fraction=0.1667 model=tiny recipe=cifar10_fast "$@"
}
train transform=baseline
train transform=impulse_noise range=0.17 # albumentations
train transform=erasing range=0.3        # kornia
train transform=posterize range=6        # torchvision
invariance-measure $own networks=cifar10_jpg 'map=[identity,residual]' solver=ridge 'fit={images: 3000}' \
  'grids=[impulse_noise,erasing,posterize]'

# a network of today
invariance-measure $own model=function model.name=networks:efficientnet_lite0 data=folder data.root=photos batch=16 \
  resize=none map=identity 'layers=[global_pool]' nulls=true 'metrics=[error_rate,agreement,effective_invariance,l2_distance]' \
  'grids=[corruptions]'
