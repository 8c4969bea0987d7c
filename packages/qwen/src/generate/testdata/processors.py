"""What transformers' logits processors leave of some scores: processors.json. Run: python processors.py > processors.json"""

import json
import random

import torch
import transformers
from transformers.generation import logits_process as lp

random.seed(7)
torch.set_default_dtype(torch.float32)
cases = []
for index in range(24):
    size = random.choice([8, 60, 300])
    # Sixteenths, so that equals occur and every language reads the same number.
    logits = [random.randrange(-160, 160) / 16 for _ in range(size)]
    seen = [random.randrange(size) for _ in range(6)]
    options = {
        "repetitionPenalty": random.choice([1, 1.3, 0.8]),
        "temperature": random.choice([0.5, 1, 1.7]),
        "topK": random.choice([0, 5, 40]),
        "topP": random.choice([1, 0.9, 0.5]),
        "minP": random.choice([0, 0.01]),
        "typicalP": random.choice([1, 0.95, 0.6, 0.2]),
    }
    ids = torch.tensor([seen])
    scores = torch.tensor([logits])
    scores = lp.RepetitionPenaltyLogitsProcessor(float(options["repetitionPenalty"]))(ids, scores)
    penalized = scores[0].tolist()
    steps = [lp.TemperatureLogitsWarper(float(options["temperature"]))]
    if options["topK"]:
        steps.append(lp.TopKLogitsWarper(options["topK"]))
    if options["topP"] < 1:
        steps.append(lp.TopPLogitsWarper(options["topP"]))
    if options["minP"]:
        steps.append(lp.MinPLogitsWarper(options["minP"]))
    if options["typicalP"] < 1:
        steps.append(lp.TypicalLogitsWarper(options["typicalP"]))
    for step in steps:
        scores = step(ids, scores)
    probabilities = torch.softmax(scores.double(), -1)[0]
    left = torch.isfinite(scores[0]).nonzero().flatten().tolist()
    cases.append(
        {
            "logits": logits,
            "seen": seen,
            "options": options,
            "penalized": penalized,
            "tokens": left,
            "probabilities": [round(probabilities[i].item(), 9) for i in left],
        }
    )
print(json.dumps({"transformers": transformers.__version__, "cases": cases}))
