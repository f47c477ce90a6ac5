"""Runs in a process whose path holds LangChain's OpenAI adapter: uses it as its users do, and prints what came."""

from __future__ import annotations

import json
import sys
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

QUESTION = "Write a haiku about ice hockey"
SCHEMA = {
    "title": "Score",
    "description": "The score of a game.",
    "type": "object",
    "properties": {"goals": {"type": "integer", "minimum": 0, "maximum": 9}, "won": {"type": "boolean"}},
    "required": ["goals", "won"],
    "additionalProperties": False,
}


def model(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="demo", seed=5, max_retries=0, timeout=60, **options)


def told(message: Any) -> dict[str, Any]:
    return {
        "text": message.text if isinstance(message.text, str) else message.text(),
        "usage": message.usage_metadata,
        "about": message.response_metadata,
    }


def invoked() -> Any:
    return told(model().invoke([SystemMessage("Be brief."), HumanMessage(QUESTION)]))


def streamed() -> Any:
    chunks = list(model(stream_usage=True).stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {**told(whole), "chunks": len(chunks)}


def batched() -> Any:
    return [told(message) for message in model().batch([QUESTION, "Write a haiku about snow", QUESTION])]


def structured() -> Any:
    return model().with_structured_output(SCHEMA, method="json_schema", strict=True).invoke(QUESTION)


def structured_raw() -> Any:
    return model().with_structured_output(SCHEMA, method="json_mode").invoke(QUESTION)


def logprobs() -> Any:
    return told(model(logprobs=True, top_logprobs=2).invoke(QUESTION))


def response() -> Any:
    return told(ChatOpenAI(model="demo", use_responses_api=True, max_retries=0, timeout=60).invoke(QUESTION))


def response_streamed() -> Any:
    chunks = list(ChatOpenAI(model="demo", use_responses_api=True, max_retries=0, timeout=60).stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {**told(whole), "chunks": len(chunks)}


def conversation() -> Any:
    """A response that goes on from the one before."""
    chat = ChatOpenAI(model="demo", use_responses_api=True, use_previous_response_id=True, max_retries=0, timeout=60)
    first = chat.invoke([HumanMessage(QUESTION)])
    return [told(first), told(chat.invoke([HumanMessage(QUESTION), first, HumanMessage("Another one")]))]


def completed() -> Any:
    return OpenAI(model="demo", seed=5, max_retries=0, max_tokens=8).invoke("ice and snow and")


def several_prompts() -> Any:
    chat = OpenAI(model="demo", seed=5, max_retries=0, max_tokens=8)
    result = chat.generate(["ice and snow and", "the river and"])
    return {"texts": [choices[0].text for choices in result.generations], "usage": result.llm_output["token_usage"]}


print(json.dumps(globals()[sys.argv[1]](), default=str))
