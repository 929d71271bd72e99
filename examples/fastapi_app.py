"""Stream answers over HTTP as server-sent events; a client that goes away stops its text within one token.

pip install fastapi uvicorn
EDGEPORT_ARTIFACT=artifacts/reference-edge uvicorn --app-dir examples fastapi_app:app
curl -N localhost:8000/chat -H 'content-type: application/json' -d '{"messages": [{"role": "user", "content": "hi"}]}'
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from edgeport.errors import EdgeportError
from edgeport.runtimes import AsyncTokenStream, GenerationOptions, load


class Question(BaseModel):
    messages: list[dict[str, str]]
    max_tokens: int | None = Field(default=None, ge=1)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One model for all requests: they queue up, and the event loop never waits for the engine."""
    async with load(os.environ["EDGEPORT_ARTIFACT"], draft="auto") as model:
        app.state.model = model
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/chat")
async def chat(question: Question, request: Request) -> StreamingResponse:
    options = GenerationOptions(max_tokens=question.max_tokens)
    stream = request.app.state.model.astream_chat(question.messages, options, timeout_s=60)
    return StreamingResponse(events(stream), media_type="text/event-stream")


async def events(stream: AsyncTokenStream) -> AsyncIterator[str]:
    """The server closes this generator when its client is gone, and that closes the text."""
    async with stream:
        try:
            async for token in stream:
                yield event({"text": token.text, "finish_reason": token.finish_reason})
        except EdgeportError as error:
            yield event({"error": error.message, "hint": error.hint})


def event(document: dict[str, str | None]) -> str:
    return f"data: {json.dumps(document)}\n\n"
