"""Prints what TensorBoard's own reader finds in a folder of event files, as JSON."""
import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

folder = sys.argv[1]
accumulator = EventAccumulator(folder, size_guidance={"scalars": 0, "tensors": 0})
accumulator.Reload()
tags = accumulator.Tags()
scalars = {tag: [[e.wall_time, e.step, e.value] for e in accumulator.Scalars(tag)] for tag in tags["scalars"]}
texts = {
    tag: [[e.step, e.tensor_proto.string_val[0].decode()] for e in accumulator.Tensors(tag)]
    for tag in tags["tensors"]
    if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "text"
}
json.dump({"version": accumulator.file_version, "scalars": scalars, "texts": texts}, sys.stdout)
