"""What the server must do for OpenAI's own Python client; the first argument is its URL, then the key and the model."""

import json
import sys

import openai

url, key, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
ask = [{"role": "user", "content": "免费空间有多大?"}]

whole = client.chat.completions.create(model=model, messages=ask, logprobs=True, top_logprobs=2)
answer = whole.choices[0].message.content
assert "GB" in answer, answer
assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2

pieces = []
for chunk in client.chat.completions.create(
    model=model, messages=ask, stream=True, stream_options={"include_usage": True}
):
    if chunk.choices:
        pieces.append(chunk.choices[0].delta.content or "")
    usage = chunk.usage
assert "".join(pieces) == answer, pieces
assert usage.completion_tokens == whole.usage.completion_tokens

assert [m.id for m in client.models.list()] == [model]
assert len(client.embeddings.create(model=model, input=["a", "b"]).data[0].embedding) == 128
assert client.completions.create(model=model, prompt="免费", max_tokens=3).usage.completion_tokens == 3

try:
    client.chat.completions.create(model=model, messages=ask, temperature=9)
    raise AssertionError("a temperature of 9 was taken")
except openai.BadRequestError as error:
    assert error.param == "temperature", error
try:
    client.chat.completions.create(model="nothing", messages=ask)
    raise AssertionError("an unknown model answered")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error
try:
    openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
    raise AssertionError("a wrong key was taken")
except openai.AuthenticationError:
    pass

print(json.dumps({"answer": answer}, ensure_ascii=False))
