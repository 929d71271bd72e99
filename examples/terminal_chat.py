"""Talk to a model in the terminal: python examples/terminal_chat.py ARTIFACT

An empty line ends it, Ctrl-C stops an answer.
"""

import sys

from edgeport.runtimes import load


def main(artifact: str) -> None:
    messages: list[dict[str, str]] = []
    with load(artifact, draft="auto") as model:
        print(f"{model.engine}: {model.choice_reason}")
        while line := input("> ").strip():
            messages.append({"role": "user", "content": line})
            answer = ""
            stream = model.stream_chat(messages, overflow="drop_oldest_messages")
            try:
                for token in stream:
                    print(token.text, end="", flush=True)
                    answer += token.text
            except KeyboardInterrupt:
                stream.close()
            print()
            if stream.dropped_messages:
                print(f"({len(stream.dropped_messages)} old messages did not fit any more)")
                messages = messages[len(stream.dropped_messages) :]
            messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main(sys.argv[1])
