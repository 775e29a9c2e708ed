"""A program beside the daemon: it posts pictures, and answers what the learner asks about them.
Needs nothing but Python.

    python http_labels.py [FOLDER]
            FOLDER/CLASS/*.png; without it the pictures that ship with the demo, of classes old and
            new
"""

import argparse
import json
import lzma
import random
import struct
import zlib
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

SHIPPED = Path(__file__).parents[1] / "edgeadapt" / "demo" / "data" / "sample.bin"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

parser = argparse.ArgumentParser()
parser.add_argument("folder", nargs="?", type=Path)
parser.add_argument("--url", default="http://127.0.0.1:8420")
parser.add_argument("--token-file", type=Path, help="what control.token_file of the daemon names")
args = parser.parse_args()
authorization = (
    {"authorization": f"Bearer {args.token_file.read_text().strip()}"} if args.token_file else {}
)


def ask(path: str, body: bytes | None = None, kind: str = "application/json") -> dict:
    with urlopen(
        Request(args.url + path, body, {"content-type": kind, **authorization}), timeout=30
    ) as answer:
        return json.load(answer)


def png(gray: bytes, side: int) -> bytes:
    rows = b"".join(b"\0" + gray[at : at + side] for at in range(0, side * side, side))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )


if args.folder:
    pictures = [
        (str(path.relative_to(args.folder)), path.parent.name, path.read_bytes())
        for path in sorted(args.folder.glob("*/*.png"))
    ]
else:
    # a byte a label, then 28 x 28 bytes a picture
    plain = lzma.decompress(SHIPPED.read_bytes().partition(b"\n")[2])
    count = len(plain) // 785
    pictures = [
        (f"shipped-{n}", CLASSES[plain[n]], png(plain[count + 784 * n :][:784], 28))
        for n in range(count)
    ]
    pictures = random.Random(0).sample(pictures, 600)

truth, right, answered, left = {}, [], 0, None
for name, label, picture in pictures:
    seen = ask("/v1/observe?" + urlencode({"stream": "door", "name": name}), picture, "image/png")[
        "answers"
    ][0]
    truth[seen["id"]] = label
    right.append(seen["label"] == label)
    for question in ask("/v1/questions")["questions"]:
        left = left or question["id"]  # the first stays, to be clicked on the page
        # a person looks at question["image"]
        if question["id"] in truth and question["id"] != left:
            labels = [{"sample": question["id"], "label": truth[question["id"]]}]
            answered += ask(
                "/v1/labels", json.dumps({"labels": labels, "source": "http_labels"}).encode()
            )["received"]
half = len(right) // 2
print(
    f"{sum(right[:half]) / half:.1%} right in the first half, {sum(right[half:]) / half:.1%} in the"
    f" second, {answered} questions answered"
)
if left:
    print(f"one question waits for you on {args.url}/")
