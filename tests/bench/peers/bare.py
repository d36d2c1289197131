"""A bare ASGI application: reads and decodes the body, answers the same bytes whatever it says."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvicorn


def application(answers: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        asked = msgspec.json.decode(body)
        answer = msgspec.json.encode(answers[asked.get("operationName") or "one"])
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-length", b"%d" % len(answer)),
                    (b"content-type", b"application/json"),
                ],
            }
        )
        await send({"type": "http.response.body", "body": answer})

    return app


if __name__ == "__main__":
    port, data_file = sys.argv[1:]
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    uvicorn.run(
        application(json.loads(Path(data_file).read_text())["answers"]),
        port=int(port),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
