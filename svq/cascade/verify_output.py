"""What svq.bin.verify --cascade prints."""

from __future__ import annotations

import dataclasses
import json

from svq.backend.calibration import Calibration
from svq.cascade.verifier import CascadeVerifier
from svq.hardware import peak_bytes


def by_cascade(options, warn) -> dict:
    """options: of svq.bin.verify. warn: called with one line where a recording is short."""
    verifier = CascadeVerifier.load(options.cascade, options.num_threads, min_seconds=options.min_seconds,
                                    window_seconds=options.window_seconds, warn=warn)
    result = verifier.verify(options.enroll, options.test)
    return {
        "cascade": options.cascade, "enroll": options.enroll, "test": options.test,
        "rungs": [dataclasses.asdict(said) for said in result.said], "settled_by": result.rung,
        "rungs_in_ladder": len(verifier.deltas),
        "scale": "llr" if isinstance(verifier.maps[-1], Calibration) else "score",
        "threshold": result.threshold, "decision": result.decision,
        "load_seconds": sum(said.load_seconds for said in result.said),
        "embed_seconds": sum(said.embed_seconds for said in result.said), "peak_memory_bytes": peak_bytes(),
    }


def report_cascade(options, found: dict) -> None:
    """JSON, or a line for each rung that was asked and for the decision."""
    if options.json:
        # An infinite delta, "escalate all", has no place in JSON: text.
        rungs = [said | {"delta": said["delta"] if said["delta"] != float("inf") else "inf"} for said in found["rungs"]]
        print(json.dumps(found | {"rungs": rungs}, indent=1, sort_keys=True, allow_nan=False))
        return
    width = max(len(said["rung"]) for said in found["rungs"])
    for said in found["rungs"]:
        apart = abs(said["value"] - found["threshold"])
        gate = "the last: settled" if said["delta"] is None else (
            f"{apart:.4f} from the threshold, delta {said['delta']:.4f}: {'settled' if said['settled'] else 'unsure'}")
        print(f"{said['rung']:{width}}  cosine {said['score']:.6f}, {found['scale']} {said['value']:.6f}; {gate}; "
              f"{said['embed_seconds']:.3f} s")
    print(f"threshold    {found['threshold']:.6f} (of the {found['scale']})")
    print(f"decision     {found['decision']}, settled by {found['settled_by']}, "
          f"{len(found['rungs'])} of {found['rungs_in_ladder']} rungs asked")
    print(f"load         {found['load_seconds']:.3f} s")
    print(f"embed        {found['embed_seconds']:.3f} s ({len(found['enroll']) + 1} recordings a rung)")
    print(f"peak memory  {found['peak_memory_bytes'] / 1e6:.0f} MB")
