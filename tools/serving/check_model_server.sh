#!/usr/bin/env bash
# Whether a real TensorFlow Serving serves an export as it should.
#
#   tools/serving/check_model_server.sh EXPORT IMAGES
#
# EXPORT is NAME/ as tools.export wrote it, with a folder per version; IMAGES a folder of
# images. Starts the server (the binary tensorflow_model_server, or else docker) with the
# configuration beside this script, waits until it is ready, asks it by gRPC and REST,
# sends a file that is no image, compares with tools.predict on the same export, and
# prints one verdict. Exit code 0: it does; 1: it does not; 2: it could not be found out.
set -euo pipefail

IMAGE=${SERVING_IMAGE:-tensorflow/serving:2.20.0}
PYTHON=${PYTHON:-.venv/bin/python}
GRPC_PORT=${GRPC_PORT:-18500} REST_PORT=${REST_PORT:-18501}
READY_SECONDS=${READY_SECONDS:-180}

cannot() { echo "cannot check: $*" >&2; exit 2; }
wrong() { echo "WRONG: $*; the server's log: $work/server.log" >&2; keep=1; exit 1; }

[ $# -eq 2 ] || cannot "need EXPORT and IMAGES, as tools/serving/check_model_server.sh exports/vit photos"
here=$(cd "$(dirname "$0")" && pwd)
[ -d "$1" ] || cannot "$1: no such folder; write it with python -m tools.export"
[ -d "$2" ] || cannot "$2: no such folder of images"
export_dir=$(cd "$1" && pwd) images=$(cd "$2" && pwd)
name=$(basename "$export_dir")
cd "$here/../.."
compgen -G "$export_dir/[0-9]*/saved_model.pb" >/dev/null ||
  cannot "$1: no version with a saved_model.pb in it; write one with python -m tools.export"
command -v "$PYTHON" >/dev/null || cannot "PYTHON=$PYTHON: no such program"

if command -v tensorflow_model_server >/dev/null; then
  how=binary
elif command -v docker >/dev/null && docker info >/dev/null 2>&1; then
  docker image inspect "$IMAGE" >/dev/null 2>&1 || docker pull --quiet "$IMAGE" >/dev/null 2>&1 ||
    cannot "no tensorflow_model_server here, and docker cannot get $IMAGE"
  how=docker
else
  cannot "neither the program tensorflow_model_server nor a running docker is here"
fi

work=$(mktemp -d) keep= server= container=
finish() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -z "$container" ] || docker rm --force "$container" >/dev/null 2>&1 || true
  [ -n "$keep" ] || rm -rf "$work"
}
trap finish EXIT

mkdir "$work/config" "$work/photos"
cp "$here"/*.config "$work/config"
flags=(--enable_batching=true --enable_model_warmup=true --enable_grpc_healthcheck_service=true)
if [ $how = binary ]; then
  base=$export_dir config=$work/config
else
  base=/models/$name config=/config
fi
sed -i "s|name: \"vit\"|name: \"$name\"|; s|base_path: \"/models/vit\"|base_path: \"$base\"|" \
  "$work/config/models.config"
for kind in model_config batching_parameters monitoring_config; do
  case $kind in
    model_config) file=models ;; batching_parameters) file=batching ;; *) file=monitoring ;;
  esac
  flags+=("--${kind}_file=$config/$file.config")
done
if [ $how = binary ]; then
  tensorflow_model_server --port="$GRPC_PORT" --rest_api_port="$REST_PORT" "${flags[@]}" \
    >"$work/server.log" 2>&1 &
  server=$!
else
  container=$(docker run --detach --publish "127.0.0.1:$GRPC_PORT:8500" \
    --publish "127.0.0.1:$REST_PORT:8501" --volume "$export_dir:$base:ro" \
    --volume "$work/config:/config:ro" "$IMAGE" "${flags[@]}") || cannot "docker run failed"
fi
log() { [ -z "$container" ] || docker logs "$container" >"$work/server.log" 2>&1 || true; }

# Ready is who tells the signatures of a loaded version.
ready() {
  "$PYTHON" - "http://127.0.0.1:$REST_PORT/v1/models/$name/metadata" <<'PYTHON' 2>/dev/null
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=5).read()
PYTHON
}
for ((i = 0; i < READY_SECONDS; i++)); do
  ready && break
  if [ -n "$server" ] && ! kill -0 "$server" 2>/dev/null; then wrong "the server ended"; fi
  sleep 1
done
log
ready || wrong "not ready after $READY_SECONDS s"

# The images, and one file that is none.
cp -R "$images/." "$work/photos"
printf 'this is no image' >"$work/photos/zz_no_image.jpg"
ask() { # PROTOCOL PORT TABLE
  "$PYTHON" -m tools.predict_client --server="127.0.0.1:$2" --protocol="$1" --model="$name" \
    --images="$work/photos" --to="$3" >/dev/null || { log; wrong "asking by $1 failed"; }
}
ask grpc "$GRPC_PORT" "$work/grpc.jsonl"
ask rest "$REST_PORT" "$work/rest.jsonl"
"$PYTHON" -m tools.predict --checkpoint="$export_dir" --images="$work/photos" \
  --to="$work/own.jsonl" --top="$("$PYTHON" - "$work/grpc.jsonl" <<'PYTHON'
import json, sys
print((len(json.loads(open(sys.argv[1]).readline())) - 2) // 2)
PYTHON
)" >/dev/null || wrong "tools.predict failed"
log

verdict=$("$PYTHON" - "$work"/own.jsonl "$work"/grpc.jsonl "$work"/rest.jsonl 2>&1 <<'PYTHON'
"""Compares the tables; says the largest difference of scores, or where they differ."""
import json, sys

TOLERANCE = 1e-3  # the server fuses and orders sums in another way
own, *others = [[json.loads(line) for line in open(name)] for name in sys.argv[1:]]
largest, unreadable = 0.0, sum(bool(row["error"]) for row in own)
for name, rows in zip(("gRPC", "REST"), others, strict=True):
    if [row["file"] for row in rows] != [row["file"] for row in own]:
        sys.exit(f"{name} answered other images than tools.predict")
    for ours, theirs in zip(own, rows, strict=True):
        where = f"{name}, {ours['file']}"
        if bool(ours["error"]) != bool(theirs["error"]):
            sys.exit(f"{where}: {theirs['error'] or 'no error'}, not {ours['error'] or 'none'}")
        if ours["error"]:
            continue
        for key in (key for key in ours if key.startswith("score_")):
            gap = abs(ours[key] - theirs[key])
            largest = max(largest, gap)
            if gap > TOLERANCE:
                sys.exit(f"{where}: {key} is {theirs[key]}, not {ours[key]}")
        # Two that are nearly equal may change places.
        clear = ours["score_1"] - ours.get("score_2", 0) > 2 * TOLERANCE
        if clear and ours["class_1"] != theirs["class_1"]:
            sys.exit(f"{where}: {theirs['class_1']}, not {ours['class_1']}")
if not own[-1]["error"]:
    sys.exit("the file that is no image was not refused")
print(f"{len(own)} images by gRPC and REST, {unreadable} unreadable, scores within {largest:.1e}")
PYTHON
) || wrong "${verdict:-the tables differ}"
echo "RIGHT ($how): $verdict"
