"""Keeps voices by name in a store: makes a voice from recordings, lists the voices, removes one.

  python -m svq.bin.enroll --model model.onnx --name ann --store voices.svs ann1.wav ann2.mp3
  python -m svq.bin.enroll --store voices.svs --list true
  python -m svq.bin.enroll --store voices.svs --remove ann

MODEL is by default the one that comes with svq. STORE is one file; the first voice makes it. svq.bin.verify and
svq.bin.identify compare recordings with its voices. A store belongs to one network and to the mean embedding of its
calibration, and refuses other models: a packed .svq and its float exports are the same network, an INT8 export is
another. Give --calibration and --mean here as you give them there.

A name may have blanks and any letters. A name that is taken is an error, unless --replace true lets the new voice take
its place. Embeddings of several recordings are centred, scaled to length 1 and averaged, as in svq.bin.verify. The
store is written whole or not at all; where two commands change it at once, the second waits.
"""

from __future__ import annotations

import json
import os

from svq.bin.verify import Warnings, add_model_options, add_scoring_options, check_model_options, load_verifier
from svq.cli import boolean, parser, run_main


def main() -> None:
    options = parse_options()
    if options.list:
        return show(options)
    if options.remove is not None:
        return remove(options)
    enroll(options)


def enroll(options) -> None:
    """Puts a voice into the store; refuses a taken name or another model before it runs the network."""
    from svq.voices import Voices, checked_name

    name = checked_name(options.name)
    there = Voices.load(options.store) if os.path.exists(options.store) else None
    if there is not None and not options.replace:
        there.require_free(name)
    verifier = load_verifier(options, Warnings())
    if there is not None:
        there.origin.check(verifier.origin, options.store)
    voice = verifier.enroll(options.recordings)
    voice.save(options.store, name, options.replace)
    print(f"{name}: {described(voice)}, kept in {options.store}")


def show(options) -> None:
    """Prints what the store holds: a line for each voice, or JSON."""
    from svq.voices import Voices

    voices = Voices.load(options.store)
    origin = voices.origin
    if options.json:
        rows = [{"name": name, "recordings": voices[name].recordings, "seconds": voices[name].seconds} for name in voices]
        print(json.dumps({"store": options.store, "model": origin.file, "network": origin.network,
                          "arithmetic": origin.arithmetic, "dim": origin.dim, "voices": rows}, indent=1, sort_keys=True))
        return
    print(f"{options.store}: {count(len(voices), 'voice')} of {origin.file} (network {origin.network[:8]}, "
          f"{origin.arithmetic.partition(':')[0]})")
    width = max(map(len, voices), default=0)
    for name in voices:
        print(f"{name:{width}}  {described(voices[name])}")


def remove(options) -> None:
    """Takes a voice out of the store."""
    from svq.voices import changed

    with changed(options.store) as voices:
        voices.remove(options.remove)
    print(f"{options.remove}: removed from {options.store}; {count(len(voices), 'voice')} left")


def described(voice) -> str:
    """Says what a voice was made from: the number of recordings and, where known, the seconds of sound."""
    seconds = "" if voice.seconds is None else f", {voice.seconds:.1f} s of sound"
    return count(voice.recordings, "recording") + seconds


def count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def parse_options():
    arguments = parser(__doc__)
    arguments.usage = ("%(prog)s [--model MODEL] --store STORE --name NAME [options] RECORDING [RECORDING ...]\n"
                       "       %(prog)s --store STORE --list true | --remove NAME")
    arguments.add_argument("--store", required=True, metavar="FILE", help="store of voices by name (.svs)")
    arguments.add_argument("--name", help="name of the voice")
    arguments.add_argument("--replace", type=boolean, default=False, metavar="true|false",
                           help="let it take the place of a voice of that name")
    arguments.add_argument("--list", type=boolean, default=False, metavar="true|false", help="print what is in the store")
    arguments.add_argument("--remove", metavar="NAME", help="take this voice out of the store")
    arguments.add_argument("--json", type=boolean, default=False, metavar="true|false", help="print the list as JSON")
    add_model_options(arguments)
    add_scoring_options(arguments)
    arguments.add_argument("recordings", nargs="*", metavar="RECORDING", help="recordings of the speaker")
    options = arguments.parse_args()
    check(arguments, options)
    return options


def check(arguments, options) -> None:
    """Exits with 2 and one line unless exactly one of enrolling, listing and removing is asked for, with all that it needs."""
    enrolling = bool(options.recordings) or options.name is not None
    if enrolling + options.list + (options.remove is not None) != 1:
        arguments.error("one of these: --name NAME with recordings, --list true, --remove NAME")
    for name, given in (("--name", options.name is not None), ("RECORDING", bool(options.recordings))):
        if enrolling and not given:
            arguments.error(f"the following arguments are required: {name}")
    if options.replace and not enrolling:
        arguments.error("--replace true is for a voice that is made from recordings")
    if enrolling:
        check_model_options(arguments, options)


if __name__ == "__main__":
    run_main(main)
