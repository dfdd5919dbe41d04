#!/bin/sh
# The measurements of docs/networks.md, of one network: sh measure.sh mobilenet_v2, efficientnet_lite0, or, for the turns
# and flips alone, efficientnet_untrained. Beside this folder's networks.py it takes the two files of weights and `photos`,
# a link to the images, in the working directory. Given again it goes on from where it was.
set -e
last=
network=$1
case $network in
  mobilenet_v2) last=classifier.0 two=features.13,features.17 inner=features.10,features.17
    mapped=features.10,features.13,features.17 ends=$(seq -s, -f 'features.%g' 0 18) ;;
  efficientnet_lite0) last=global_pool two=blocks.4,blocks inner=blocks.3,blocks mapped=blocks.3,blocks.4,blocks
    ends=blocks.0,blocks.1.0,blocks.1,blocks.2.0,blocks.2,blocks.3.0,blocks.3.1,blocks.3,blocks.4.0,blocks.4.1
    ends=$ends,blocks.4,blocks.5.0,blocks.5.1,blocks.5.2,blocks.5,blocks ;;
  efficientnet_untrained)
    ends=bn1,blocks.0,blocks.1,blocks.2,blocks.3,blocks.4,blocks.5,blocks ;;
  *) echo "measure.sh: mobilenet_v2, efficientnet_lite0 or efficientnet_untrained" >&2; exit 2 ;;
esac
export OMP_NUM_THREADS=1 PYTHONPATH="$(dirname "$0")"

measure() {
  invariance-measure model=function "model.name=networks:$network" data=folder data.root=photos batch=16 logger=csv "$@"
}

families='grids=[rotation,blur,color_jitter,noise,shear,perspective,elastic,mirror]'
one='grid={rotation:{angles:[30]},shear:{angles:[30]},blur:{sigmas:[3]},color_jitter:{brightness:[60]}'
one="$one,noise:{sigmas:[40]},elastic:{alphas:[15],sigmas:[3]}"
one="$one,perspective:{draws:0,moves:[[3.1,-3.02,-3.08,-3.06,3.04,3.02,-3.12,3.04]]}}"
axes='grid={rotation:{angles:[-90,-45,-30,-20,-10,-5,5,10,20,30,45,90]},shear:{angles:[-30,-20,-10,10,20,30]}'
axes="$axes,blur:{sigmas:[0.5,1,2,3,5]},color_jitter:{brightness:[-90,-60,-30,-15,15,30,60,90]}"
axes="$axes,noise:{sigmas:[5,10,20,30,40]},elastic:{alphas:[5,10,15],sigmas:[2,3]}}"
corners='grid={crop:{corners:true}}'

for part in ${last:+families crop}; do
  if [ $part = families ]; then
    grids=$families axis=$axes point=$one resize=none
  else # Crop takes larger pictures, and so ones that are resized
    grids='grids=[crop_320]' axis=$corners point=$corners resize=warp
  fi
  # error and agreement along each family's axis, at the last layer before the logits
  measure "$grids" "$axis" resize=$resize map=identity "layers=[$last]" nulls=true runs=runs/curves \
    'metrics=[error_rate,agreement,effective_invariance,l2_distance]'
  # how far another image is, at the ends of blocks
  measure "$grids" "$point" resize=$resize map=identity "layers=[$ends]" readout=mean nulls=true runs=runs/nulls \
    'metrics=[l2_distance]'
  # error through ridge's map, and through maps that never saw the class
  measure "$grids" "$point" resize=$resize 'map=[identity,residual]' solver=ridge "layers=[$two,$last]" \
    'metrics=[error_rate,l2_distance]' runs=runs/unseen
  # L_L2 at all true cuts at the ends of blocks, without a map and through three
  measure "$grids" "$point" resize=$resize 'map=[identity,residual,orthogonal,low_rank:16]' 'solver=[ridge,procrustes]' \
    layers=auto 'metrics=[l2_distance]' labels=false runs=runs/depth
  # the spatial map
  measure "$grids" "$point" resize=$resize 'map=[spatial,warp]' solver=ridge "layers=[$mapped]" \
    'metrics=[agreement,l2_distance]' runs=runs/spatial
  # agreement through the three maps
  measure "$grids" "$point" resize=$resize 'map=[identity,residual,orthogonal,low_rank:16]' 'solver=[ridge,procrustes]' \
    "layers=[$inner,$last]" 'metrics=[agreement,l2_distance]' runs=runs/through
done

# exact turns and flips, without a map
measure 'grids=["networks:Dihedral"]' resize=none map=identity "layers=[$ends]" readout=mean nulls=true \
  'metrics=[l2_distance]' runs=runs/dihedral
