"""What client and server of the harness both know of SMTP."""

# How the mail server refuses a message of its own accord, by its Subject; and how the interop tests' Postfix does.
REFUSAL = "554 5.6.0 The mail server itself does not want this"
REFUSALS = (REFUSAL, "550 5.7.1 This subject is refused")
UNWANTED = "refuse me"


async def read_data(reader):
    """Reads a message up to its final dot, which is taken off with the dots that only hide others."""
    content = bytearray()
    end = 0
    while True:
        chunk = await reader.read(1 << 16)
        if not chunk:
            raise ConnectionError("the message has no end")
        content += chunk
        if content.endswith(b"\r\n.\r\n") or content == b".\r\n":
            break
        end = max(0, len(content) - 4)
        # The gate sends nothing behind the dot before it has the reply.
        assert b"\r\n.\r\n" not in content[end:], "something stands behind the final dot"
    content = bytes(content)
    content = content[1:] if content.startswith(b".") and content != b".\r\n" else content
    return content[:-3].replace(b"\r\n.", b"\r\n")


def stuffed(content):
    """A message as it goes over the wire: dots doubled, the final one behind it."""
    content = content.replace(b"\r\n.", b"\r\n..")
    return (b"." if content.startswith(b".") else b"") + content + b".\r\n"


async def read_reply(reader):
    """One reply: its code, and its text in one line."""
    texts = []
    while True:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("closed")
        texts.append(line[4:].decode("latin-1").strip())
        if line[3:4] != b"-":
            return int(line[:3]), " / ".join(texts)
