#!/usr/bin/env bash
# Downloads and unpacks speechocean762 (https://www.openslr.org/101/, 520 MB). An interrupted download goes on where
# it was:  local/download_speechocean762.sh --folder /corpora   makes /corpora/speechocean762
# There seems to be no published checksum of the archive. This script checks its size against that in Kaldi's recipe for
# the corpus (egs/gop_speechocean762), gzip's own CRC over the whole archive, the numbers of recordings and speakers
# after unpacking, and, with --sha256, a checksum that you trust. It prints the SHA-256.
set -euo pipefail

folder=corpus               # folder to unpack speechocean762 in
url=https://www.openslr.org/resources/101/speechocean762.tar.gz   # or a mirror of OpenSLR
size=520810923              # bytes of the archive; 0: no check
sha256=                     # SHA-256 of the archive; empty: no check
recordings=5000             # recordings of the complete corpus
speakers=250                # speakers of the complete corpus, half in train, half in test
keep_archive=false          # true: leave the archive beside the corpus

. utils/parse_options.sh

fail() { echo "${0##*/}: $1" >&2; exit 1; }

# complaint CORPUS: prints what is wrong with an unpacked corpus, if anything.
complaint() {
  local part found
  for part in train test; do
    [[ -f $1/$part/wav.scp && -f $1/$part/utt2spk && -f $1/$part/spk2gender ]] ||
      { echo "$part/wav.scp, utt2spk or spk2gender is missing"; return; }
  done
  found=$(find "$1/WAVE" -type f -iname '*.wav' | wc -l)
  ((found == recordings)) || { echo "$found recordings, not $recordings"; return; }
  found=$(cut -f 2 "$1"/{train,test}/utt2spk | sort -u | wc -l)
  ((found == speakers)) || echo "$found speakers, not $speakers"
}

corpus=$folder/speechocean762 archive=$folder/speechocean762.tar.gz
if [[ -e $corpus ]]; then
  wrong=$(complaint "$corpus")
  [[ -z $wrong ]] || fail "$corpus is there but incomplete ($wrong); move it away"
  echo "$corpus is there and complete"
  exit 0
fi

mkdir -p "$folder"
if [[ ! -f $archive ]]; then
  if command -v curl > /dev/null; then
    curl --fail --location --retry 5 --continue-at - --output "$archive.part" "$url" ||
      fail "downloading $url failed; run this again to go on from $archive.part"
  elif command -v wget > /dev/null; then
    wget --continue --tries 5 --output-document "$archive.part" "$url" ||
      fail "downloading $url failed; run this again to go on from $archive.part"
  else
    fail "neither curl nor wget is installed; install one of them, or put $url at $archive yourself"
  fi
  mv "$archive.part" "$archive"
fi

again="remove it to download it anew"
bytes=$(wc -c < "$archive")
((size == 0 || bytes == size)) || fail "$archive has $bytes bytes, not $size; $again, or --size 0 if you trust it"
read -r sum _ < <(sha256sum "$archive")
echo "SHA-256 of $archive: $sum"
[[ -z $sha256 || $sum == "${sha256,,}" ]] || fail "$archive does not have the SHA-256 $sha256; $again"
gzip --test "$archive" 2> /dev/null || fail "$archive is damaged; $again"

# Unpack beside the final place and rename, so that nobody takes a half-unpacked corpus for a whole one.
unpacked=$(mktemp -d "$folder/.unpack.XXXXXX")
trap 'rm -rf "$unpacked"' EXIT
tar --extract --gzip --file "$archive" --directory "$unpacked" --no-same-owner ||
  fail "$archive cannot be unpacked; is the disk full?"
[[ -d $unpacked/speechocean762 ]] || fail "$archive holds no folder speechocean762; $again"
wrong=$(complaint "$unpacked/speechocean762")
[[ -z $wrong ]] || fail "$archive is not the complete corpus: $wrong"
mv "$unpacked/speechocean762" "$corpus"
[[ $keep_archive == true ]] || rm "$archive"
echo "$corpus is complete: $recordings recordings of $speakers speakers"
