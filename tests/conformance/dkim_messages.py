"""Messages that are hard to canonicalize, and ways in which messages change on the way; both from a seed."""

import random
import re

WORDS = [b"a", b"Hello", b"world.", b"=20", b"\xc3\xa4\xc3\xb6", b"\xff\xfe", b"..", b"From", b"--", b"x" * 70, b"\x7f", b";"]
SPACES = [b" ", b" ", b" ", b"  ", b"\t", b" \t ", b"   "]
# Never first: it would stand for an mbox separator, or continue the field above.
NAMES = [b"Received", b"X-Mailer", b"Comments", b"Keywords", b"x-lower", b"X-UPPER", b"X-a_b!c"]


def message(seed):
    """A message with From, To and Subject among other fields, and a body of any kind."""
    choice = random.Random(seed)
    fields = [field(choice, name) for name in choice.choices(NAMES, k=choice.randrange(6))]
    fields += [b"From: A <a@signer.example>\r\n", field(choice, b"To"), field(choice, b"Subject")]
    if choice.random() < 0.1:
        fields.append(b"X-Long: " + b"y" * choice.choice([998, 5000]) + b"\r\n")
    choice.shuffle(fields)
    return b"".join(fields) + b"\r\n" + body(choice)


def field(choice, name):
    """A field with folding and white space of any kind."""
    value = b""
    for _ in range(choice.randrange(8)):
        value += choice.choice(SPACES)
        if choice.random() < 0.2:
            # A line of nothing but white space would be obsolete folding, which is tried by itself.
            value += choice.choice(WORDS) + choice.choice([b"", b" ", b"\t"]) + b"\r\n" + choice.choice([b" ", b"\t "])
        value += choice.choice(WORDS)
    return name + b":" + value + choice.choice([b"", b"", b" ", b"\t "]) + b"\r\n"


def body(choice):
    """A body: one in ten has no line, others end in empty lines, white space, or without a line end."""
    kind = choice.randrange(10)
    if kind == 0:
        return b""
    if kind == 1:
        return choice.choice([b"\r\n", b"\r\n\r\n\r\n", b" \r\n", b"\t \r\n \r\n", b"\r\n x\r\n"])
    lines = []
    for _ in range(choice.randrange(1, 12)):
        words = b"".join(choice.choice(SPACES) + choice.choice(WORDS) for _ in range(choice.randrange(6)))
        lines.append(choice.choice([words, words[1:], words + b" ", words + b"\t\t", b"", b" \t", b".", b".."]))
    if choice.random() < 0.1:
        lines.append(b"z" * choice.choice([999, 20_000]))
    text = b"\r\n".join(lines) + b"\r\n" + choice.choice([b"", b"", b"\r\n", b"\r\n\r\n", b" \r\n", b"\t\r\n\r\n"])
    # White space before the end of the data is read differently, which is tried by itself.
    return text.rstrip(b" \t\r\n") if kind == 2 else text


def mutations(original, seed, count):
    """`count` changed copies, each with the name of the change."""
    choice = random.Random(seed)
    changes = [flip_in_body, flip_in_header, flip_in_signature, append, cut, white_space, duplicate, remove, respell]
    return [(change.__name__, change(choice, original)) for change in choice.choices(changes, k=count)]


def flip_in_body(choice, text):
    """One octet of the body, if it has one."""
    return flip(choice, text, text.index(b"\r\n\r\n") + 4, len(text))


def flip_in_header(choice, text):
    """One octet of the header section."""
    return flip(choice, text, 0, text.index(b"\r\n\r\n"))


def flip_in_signature(choice, text):
    """One octet of the topmost field."""
    return flip(choice, text, 0, len(split(text)[0][0]))


def append(choice, text):
    """Something behind the body."""
    return text + choice.choice([b"\r\n", b" \r\n", b"x", b"footer\r\n", b"\r\n\r\n\r\n"])


def cut(choice, text):
    """The last octets of the body are missing."""
    start = text.index(b"\r\n\r\n") + 4
    left = text[start:choice.randrange(start, len(text) + 1)].rstrip(b" \t\r\n")
    return text[:start] + left + (b"\r\n" if left else b"")


def white_space(choice, text):
    """A run of white space becomes another."""
    places = [at for at, octet in enumerate(text) if octet in b" \t" and text[at - 1] not in b"\r\n"]
    if not places:
        return text
    at = choice.choice(places)
    return text[:at] + choice.choice([b"  ", b"\t", b" \t "]) + text[at + 1:]


def duplicate(choice, text):
    """A field stands twice: above all, or below all."""
    fields, rest = split(text)
    copy = choice.choice(fields)
    return b"".join([copy, *fields] if choice.random() < 0.5 else [*fields, copy]) + rest


def remove(choice, text):
    """A field is missing."""
    fields, rest = split(text)
    fields.pop(choice.randrange(len(fields)))
    return b"".join(fields) + rest


def respell(choice, text):
    """The name of a field is in capitals."""
    fields, rest = split(text)
    at = choice.randrange(len(fields))
    name, colon, value = fields[at].partition(b":")
    fields[at] = name.upper() + colon + value
    return b"".join(fields) + rest


def flip(choice, text, start, end):
    """Another octet in place of one, line ends left alone: these two readers take bare ones differently."""
    places = [at for at in range(start, end) if text[at] not in b"\r\n"]
    if not places:
        return text
    at = choice.choice(places)
    others = [octet for octet in (text[at] ^ 1, text[at] ^ 0x20, text[at] ^ 2, 0x78) if octet not in b"\0\r\n" + text[at:at + 1]]
    return text[:at] + bytes([choice.choice(others)]) + text[at + 1:]


def split(text):
    """The fields, each with its continuation lines, and the rest from the empty line on."""
    head, _, tail = text.partition(b"\r\n\r\n")
    return re.findall(rb"[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", head + b"\r\n"), b"\r\n" + tail
