"""Loads a model (f32) and an adapter with PEFT and prints, as JSON, the last position's logits of each prompt.

usage: peft_logits.py MODEL_DIR ADAPTER_DIR < prompts.json      prompts: lists of token ids
"""

import json
import sys
import warnings

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

# PEFT only warns of keys that are missing or unexpected: here that is a failure.
warnings.simplefilter("error")
warnings.filterwarnings("default", category=DeprecationWarning)
warnings.filterwarnings("default", category=FutureWarning)

base, adapter = sys.argv[1:3]
prompts = json.load(sys.stdin)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, adapter).eval()
result = {"targets": sorted(model.targeted_module_names), "logits": []}
with torch.no_grad():
    for ids in prompts:
        result["logits"].append(model(torch.tensor([ids])).logits[0, -1].tolist())
print(json.dumps(result))
