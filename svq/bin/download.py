"""Downloads a published checkpoint by its name, from its publisher, and says how to import it.

Says network, licence, address and size first. Without NAME it lists what there is. Files are kept in FOLDER/NAME (by
default ~/.cache/svq; the environment's SVQ_CACHE or XDG_CACHE_HOME say otherwise) and are not fetched twice. A
download that was cut off goes on where it was. The file must have the published SHA-256. Where its publisher gives
none, that of the first download is kept beside the file, for the next one to be compared with.

  svq download speechbrain-ecapa
  svq download wespeaker-resnet34-lm --folder models

docs/published.md has the list with the sizes that the networks come to here at 4, 2 and 1 bits.
"""

from __future__ import annotations

import shlex

from svq.cli import parser, run_main
from svq.hub.catalogue import Published, find, listing
from svq.hub.fetch import cache_folder, download


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("name", nargs="?", help="the checkpoint; none: lists all of them")
    arguments.add_argument("--folder", help="folder to keep it in (None: the cache)")
    arguments.add_argument("--url", help="address of the file at a mirror (None: its publisher's)")
    options = arguments.parse_args()
    if options.name is None:
        print(listing(), end="")
        return
    published = find(options.name)
    print(said_before(published, options.url), flush=True)
    path = download(published, options.folder or cache_folder(), options.url)
    print(f"{path}\nnext: svq import --from {published.origin} {shlex.quote(path)} --out {published.name}")


def said_before(published: Published, url: str | None) -> str:
    """Writes what a user should know of a checkpoint before it is downloaded, in four lines."""
    size = "size not known" if published.bytes is None else f"{published.bytes / 1e6:.1f} MB"
    proof = "published" if published.sha256 else "not published; that of the first download counts"
    eer = "" if published.eer is None else f"; EER as published {published.eer:g} % on {published.test}"
    return (f"{published.name}: {published.arch}, from {published.origin}{eer}\nlicence: {published.licence}\n"
            f"from: {url or published.url} ({size})\nSHA-256: {proof}")


if __name__ == "__main__":
    run_main(main)
