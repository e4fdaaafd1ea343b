#!/usr/bin/env python3
"""Compares `moebius tokenize` with Hugging Face's tokenizers on a corpus that is hard on purpose.

Only `dump` needs the tokenizers package. TOKENIZERS is a folder of NAME.json or NAME/tokenizer.json.

  peer_tokenize.py corpus OUT.jsonl                     write the corpus
  peer_tokenize.py dump TOKENIZERS CORPUS OUT.jsonl     what tokenizers makes of it
  peer_tokenize.py ours MOEBIUS TOKENIZERS CORPUS OUT.jsonl   what moebius makes of it
  peer_tokenize.py compare THEIRS OURS                  exit status 1 when they differ

A line of a dump: {"tokenizer", "index", "special": with special tokens, "ids", "text": decoded}.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

SCRIPTS = {
    "latin": "The quick brown fox won't jump: they're DON'T we'll I'VE it's he'd I'm 'SS 'Ll naïve café",
    "german": "Fußgängerübergänge, Größe, ÄÖÜ äöü ß ẞ; „Zitat“ »Zitat«",
    "czech": "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "vietnamese": "Tiếng Việt có sáu thanh điệu; đường phố",
    "turkish": "İstanbul'da ışık, IĞDIR, iğne",
    "greek": "Ὁ Σωκράτης ἔφη· ΟΔΥΣΣΕΥΣ ὀδυσσεύς Ἀθῆναι",
    "russian": "Съешь ещё этих мягких французских булок, да выпей чаю. Ёлка",
    "ukrainian": "Жебракують філософи при ґанку церкви в Гадячі, ще й шатро їхнє п'яне",
    "hebrew": "שָׁלוֹם עוֹלָם, מה שלומך?",
    "arabic": "مَرْحَبًا بِالْعَالَمِ، كَيْفَ الحال؟ ١٢٣٤٥ ـــ لا",
    "persian": "می‌خواهم کتاب‌ها را بخوانم ۱۲۳۴",
    "hindi": "नमस्ते दुनिया, क्षत्रिय ज्ञान १२३४५६",
    "bengali": "বাংলা ভাষা ১২৩",
    "tamil": "தமிழ் மொழி ௧௨௩",
    "thai": "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง ๑๒๓๔๕",
    "lao": "ສະບາຍດີ ໂລກ ໑໒໓",
    "khmer": "សួស្តី​ពិភពលោក ១២៣",
    "tibetan": "བོད་ཡིག ༡༢༣",
    "georgian": "გამარჯობა მსოფლიო ᲒᲐᲛᲐᲠᲯᲝᲑᲐ",
    "armenian": "Բարև աշխարհ",
    "ethiopic": "ሰላም ለዓለም ፩፪፫",
    "chinese": "你好，世界！我能吞下玻璃而不伤身体。繁體字：龍龜鬱 〇一二三 ㊀㍿",
    "japanese": "こんにちは世界。カタカナ ｶﾀｶﾅ がぎぐ が 々〆ヶ",
    "korean": "안녕하세요 세계 한글 각",
    "emoji": "😀😃 👩‍👩‍👧‍👦 👨🏽‍💻 🏳️‍🌈 🇩🇪🇨🇿 ❤️‍🔥 ☝🏿 1️⃣ #️⃣ 👍👍🏻 🫠",
    "math": "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β; ½ ⅓ ² ³ ⁴ ₁ Ⅷ ⅷ ① ⓐ 𝔸𝒷 𝟘𝟙𝟚 ℵ₀ ∑ⁿ",
    "compatibility": "ﬁ ﬀ ﬃ ﬆ Å K Ω ㎏ ㏒ ½ … ‥ ‼ ⁇ ﷺ ﷽ ｆｕｌｌ　ｗｉｄｔｈ ¨ ´ ¸ ª º",
    "runes": "ᚠᛇᚻ ᛒᛦᚦ 𐌰𐌱𐌲 𒀀𒁀 𓀀𓂀 𐎀",
}

SPACES = (
    " \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u200b\u200c\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)

CODE = [
    'int main(void)\n{\n\treturn printf("%d\\n", 0x7fff) < 0;\n}\n',
    "def f(x):\n    if x > 0:\n        return x ** 2  # comment\n\n\n    return None\n",
    "SELECT a.*, COUNT(1) FROM t a WHERE a.x<>'y''z' GROUP BY 1;\r\n-- done\r\n",
    "<div class=\"a b\">&nbsp;&#x2603;</div>\n<!-- x -->\n",
    "for (;;) { ++i; --j; a->b = c ? d : !e; } // 1e-10 1_000 0b1010 0o17\n",
    "https://example.org/a/b?c=d&e=%F0%9F%98%80#frag user.name+tag@example.co.uk C:\\Users\\x",
    "$$$ ### @@@ *** ___ --- === +++ ~~~ ``` ||| \\\\\\ /// ^^^ ((([[[{{{}}}]]])))",
    "camelCaseWord PascalCase SCREAMING_SNAKE kebab-case HTTPServer iPhone15Pro x86_64",
    '{"key": [1, 2.5, -3e8, null, true], "s": "\\u00e9\\n"}',
]

NUMBERS = [
    "0 7 42 123 1234 12345 123456 1234567 12345678901234567890 3.14159 1,234,567.89 -5 +5 1e9",
    "٠١٢٣٤٥٦٧٨٩ ०१२३४५६७८९ ๐๑๒๓ ０１２３ 𝟎𝟏𝟐 Ⅳ ㉑ ½¾ 〇",
    "a1b2c3 4x4 100% $5 5€ 10:30 2024-01-02 192.168.0.1 v1.2.3-rc4 1st 2nd 3rd",
]

# Texts that look like special tokens, whole and broken.
SPECIALS = (
    "<|endoftext|> <|pad|> <|im_start|>user\nhi<|im_end|>\n<s> </s> <unk> <pad> <|begin_of_text|> <bos> <eos>"
    " <|begin|> <mask> <extra_id_0> <｜begin▁of▁sentence｜> <think> </think> <|endoftext|><|endoftext|>"
)


def corpus():
    rng = random.Random(20240229)
    texts = [" ", "  ", "\n", "a", " a", "a ", "  a  b  ", "'", "''", "▁", "▁a", "a▁b", "Ġ", "\u0301", "a\u0301\u0327"]
    texts += list(SCRIPTS.values()) + CODE + NUMBERS
    texts += [SPECIALS, SPECIALS.upper(), SPECIALS.replace("<", " <").replace(">", ">x")]
    texts += [unicodedata.normalize(form, text) for text in SCRIPTS.values() for form in ("NFD", "NFKC", "NFKD")]
    texts += [f"a{space}b{space}{space}c{space}" for space in SPACES]
    texts += [space * n for space in " \n\t\u00a0\u3000" for n in (1, 2, 3, 5, 17)]
    texts += ["a\r\nb\n\rc\r\rd\n\n\ne", "\n \n  \n", " \n", "x \n\n y", "\t\tx", "end   ", "end \n ", "\u00a0\n\u00a0x"]
    texts += [chr(c) + "x " + chr(c) + chr(c) for c in list(range(1, 32)) + [127] + list(range(128, 160))]
    texts += [text for word in ("don", "IT", "we", "ſ", "\u212a") for text in
              [f"{word}{q}{tail}" for q in "'’" for tail in ("s", "S", "t", "ll", "LL", "ve", "re", "d", "m", "ſ", "st", " s")]]
    texts += ["\u0300\u0301\u0302 e\u0301e\u0301", "e" + "\u0301\u0323" * 20 + "x", "\u1100\u1161\u11a8 \u1100\u1161", "\ud7a3\u11a8"]
    texts += ["a\u200db", "\u200f\u202eabc\u202c", "\ufeffBOM", "soft\u00adhyphen", "\ufffd\ufffe\uffff", "\U0010ffff", "\ue000\uf8ff"]
    texts += ["x" * n for n in (1, 2, 3, 31, 40, 41, 500)] + ["ab" * 300, "aaab" * 100, "=" * 100, "-=" * 77, "你好" * 100, "1" * 50]
    pool = "".join(SCRIPTS.values()) + SPACES + "".join(CODE) + "0123456789" * 3 + "'\"" * 10 + " " * 60
    for _ in range(400):
        texts.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 80))))
    words = " ".join(list(SCRIPTS.values()) + CODE + NUMBERS + [SPECIALS]).split(" ")
    for _ in range(200):
        texts.append(" ".join(rng.choice(words) for _ in range(rng.randint(1, 40))))
    for _ in range(200):  # assigned code points of the whole range, not newer than Unicode 9
        texts.append("".join(assigned(rng) + rng.choice(["", " ", ""]) for _ in range(40)))
    return texts


def assigned(rng):
    while True:
        c = chr(rng.choice([rng.randrange(0x80, 0x3000), rng.randrange(0x80, 0x20000)]))
        if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs", "Co"):
            return c


def tokenizers_of(folder):
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            path = os.path.join(path, "tokenizer.json")
        if path.endswith(".json") and os.path.isfile(path):
            yield name.removesuffix(".json"), path


def read_corpus(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row) + "\n")


def dump(folder, corpus_path, out):
    from tokenizers import Tokenizer, __version__

    print("tokenizers", __version__, file=sys.stderr)
    texts = read_corpus(corpus_path)
    rows = []
    for name, path in tokenizers_of(folder):
        tokenizer = Tokenizer.from_file(path)
        for special in (True, False):
            for index, text in enumerate(texts):
                ids = tokenizer.encode(text, add_special_tokens=special).ids
                decoded = tokenizer.decode(ids, skip_special_tokens=not special)
                rows.append({"tokenizer": name, "index": index, "special": special, "ids": ids, "text": decoded})
    write_lines(out, rows)


def tokenize(moebius, arguments):
    done = subprocess.run([moebius, "tokenize", *arguments, "--json"], capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.decode())
    return json.loads(done.stdout)["requests"]


def ours(moebius, folder, corpus_path, out):
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        tokens = os.path.join(scratch, "tokens.jsonl")
        for name, path in tokenizers_of(folder):
            for special in (True, False):
                flags = ["--model", path] + ([] if special else ["--no-special"])
                encoded = tokenize(moebius, flags + ["--text", corpus_path])
                known = [row for row in encoded if row["ids"]]
                write_lines(tokens, [{"tokens": row["ids"]} for row in known])
                decoded = iter(tokenize(moebius, flags + ["--tokens", tokens]))
                for index, row in enumerate(encoded):
                    text = next(decoded)["text"] if row["ids"] else ""
                    rows.append({"tokenizer": name, "index": index, "special": special, "ids": row["ids"], "text": text})
    write_lines(out, rows)


def compare(theirs_path, ours_path):
    with open(theirs_path, encoding="utf-8") as lines:
        theirs = {(row["tokenizer"], row["index"], row["special"]): row for row in map(json.loads, lines)}
    with open(ours_path, encoding="utf-8") as lines:
        mine = {(row["tokenizer"], row["index"], row["special"]): row for row in map(json.loads, lines)}
    totals = {}
    for key in sorted(theirs.keys() | mine.keys()):
        total = totals.setdefault(key[0], [0, 0, 0])
        total[0] += 1
        a, b = theirs.get(key), mine.get(key)
        for field, slot in (("ids", 1), ("text", 2)):
            if a is None or b is None or a[field] != b[field]:
                total[slot] += 1
                if total[slot] <= 5:
                    print(f"{key}: {field}: theirs {a and a[field]!r} ours {b and b[field]!r}"[:1000])
    for name, (count, ids, text) in totals.items():
        print(f"{name}: {count} texts, {ids} with other ids, {text} with other decoded text")
    return 1 if any(ids or text for _, ids, text in totals.values()) else 0


def main():
    command, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if command == "corpus" and len(arguments) == 1:
        write_lines(arguments[0], [{"text": text} for text in corpus()])
    elif command == "dump" and len(arguments) == 3:
        dump(*arguments)
    elif command == "ours" and len(arguments) == 4:
        ours(*arguments)
    elif command == "compare" and len(arguments) == 2:
        return compare(*arguments)
    else:
        sys.exit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
