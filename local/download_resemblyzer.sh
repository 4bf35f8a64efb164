#!/usr/bin/env bash
# Downloads a published network: pretrained.pt of Resemblyzer (https://github.com/resemble-ai/Resemblyzer, Apache-2.0),
# which its package on PyPI holds (16 MB), and its LICENSE.
#   local/download_resemblyzer.sh --folder corpus/resemblyzer   makes corpus/resemblyzer/{pretrained.pt,LICENSE}
# The package is unpacked, not installed. The checksum of the network is checked.
set -euo pipefail

folder=corpus/resemblyzer   # folder for pretrained.pt and LICENSE
version=0.1.4               # version of the package
wheel=                      # the package's .whl, where it was downloaded before; empty: download it
sha256=39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e   # of pretrained.pt; empty: no check

. utils/parse_options.sh
. ./path.sh

fail() { echo "${0##*/}: $1" >&2; exit 1; }
check() {                                         # check FILE: fails where FILE is not the network that is meant
  local sum
  read -r sum _ < <(sha256sum "$1")
  [[ -z $sha256 || $sum == "$sha256" ]] || fail "$1: has the SHA-256 $sum, not $sha256; remove it, or say --sha256= if you trust it"
}

if [[ -e $folder/pretrained.pt ]]; then
  check "$folder/pretrained.pt"
  echo "$folder/pretrained.pt is there"
  exit 0
fi
mkdir -p "$folder"
scratch=$(mktemp -d "$folder/.download.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
if [[ -z $wheel ]]; then
  python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$scratch" "resemblyzer==$version" ||
    fail "downloading resemblyzer==$version from the package index failed; name its .whl by --wheel"
  wheel=$(find "$scratch" -name '*.whl')
fi
[[ -f $wheel ]] || fail "$wheel: no such file"
python3 - "$wheel" "$scratch" 2> /dev/null << 'END' || fail "$wheel: not the package resemblyzer, or cut short; download it again"
import pathlib, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as file:
    for name in file.namelist():
        if name == "resemblyzer/pretrained.pt" or name.endswith(".dist-info/LICENSE"):
            pathlib.Path(sys.argv[2], pathlib.PurePosixPath(name).name).write_bytes(file.read(name))
pathlib.Path(sys.argv[2], "pretrained.pt").stat()
END
check "$scratch/pretrained.pt"
if [[ -e $scratch/LICENSE ]]; then mv "$scratch/LICENSE" "$folder/LICENSE"; fi
mv "$scratch/pretrained.pt" "$folder/pretrained.pt"
echo "$folder/pretrained.pt is there"
