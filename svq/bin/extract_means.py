"""Computes the mean embedding of each speaker of a Kaldi data directory, and of all utterances; no embedding is written.

Each --job of --num-jobs does its share and keeps running sums in OUT/sums, where a killed one goes on from. A last call with
--finish adds them up and writes OUT/spk_embedding.{ark,scp}, the cohort of score normalisation, and OUT/mean.vec, which is
subtracted before cosine scoring. They have the bytes that svq.bin.extract and svq.bin.speaker_means would give, whatever
--num-jobs. With one job, one call does both. An utterance without an embedding is an error that names it.
"""

from __future__ import annotations

import os
import shutil

from svq.bin.extract import any_model, parsed
from svq.cli import boolean, parser, run_main


def main() -> None:
    options = parse_options()
    from svq.backend.mean_jobs import do_job, finish, path_of

    folder = os.path.join(options.out, "sums")
    if not options.finish:
        from svq.data.extraction import Utterances, compute_on
        from svq.progress import progress

        compute_on(options.device, options.num_threads)
        config, waveforms, run = any_model(options)
        utterances = Utterances(options.data_dir, config.front_end, options.input, options.job, options.num_jobs,
                                options.max_seconds, options.device, waveforms)
        os.makedirs(folder, exist_ok=True)
        do_job(run, utterances, options.data_dir, path_of(folder, options.job), made_from(options),
               options.length_normalize, lambda items, total: progress(items, total, "extract"))
    if options.finish or options.num_jobs == 1:
        jobs = range(1, options.num_jobs + 1)
        speakers = finish(options.out, [path_of(folder, job) for job in jobs], options.data_dir, options.log)
        shutil.rmtree(folder)
        print(f"{speakers} speaker means of {options.data_dir} in {options.out}")


def made_from(options) -> str:
    """Takes the digest of what the sums of all jobs depend on: model, lists, settings of features, options, number of jobs."""
    from svq.files import run_digest

    model = [options.model] if os.path.isfile(options.model) else [
        os.path.join(options.model, name) for name in ("model.safetensors", "config.yaml")]
    beside = [os.path.splitext(options.model)[0] + ".bin"] if options.model.endswith(".xml") else []
    lists = [os.path.join(options.data_dir, name)
             for name in ("utt2spk", "wav.scp", "feats.scp", "feats.yaml", "utt2dur", "utt2num_frames", "reco2file_and_channel")]
    return run_digest(model + beside + lists, options.input, options.runtime, options.max_seconds, options.length_normalize,
                      options.batch_frames, options.num_jobs)


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("data_dir", help="Kaldi data directory")
    arguments.add_argument("model", help="model folder, a packed .svq file, or an exported .onnx or .xml")
    arguments.add_argument("out", help="folder of the means")
    arguments.add_argument("--length-normalize", type=boolean, default=False, metavar="true|false",
                           help="scale each embedding to length 1 before it is averaged")
    arguments.add_argument("--finish", action="store_true", help="add up the sums of all jobs")
    arguments.add_argument("--log", default="its log", help="log of a job (JOB is its number), which messages name")
    return parsed(arguments)


if __name__ == "__main__":
    run_main(main)
