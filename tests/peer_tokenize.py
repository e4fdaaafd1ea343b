#!/usr/bin/env python3
"""Compares `moebius tokenize` with Hugging Face's tokenizers on a corpus that is hard on purpose.

Only `dump` needs the tokenizers package. TOKENIZERS is a folder of NAME.json or NAME/tokenizer.json.

  peer_tokenize.py make OUT_FOLDER                      write small tokenizers, one for each option
  peer_tokenize.py corpus OUT.jsonl                     write the corpus
  peer_tokenize.py dump TOKENIZERS CORPUS OUT.jsonl     what tokenizers makes of it
  peer_tokenize.py ours MOEBIUS TOKENIZERS CORPUS OUT.jsonl   what moebius makes of it
  peer_tokenize.py compare THEIRS OURS                  exit status 1 when they differ

A line of a dump: {"tokenizer", "index", "special": with special tokens, "ids", "text": decoded}.
"""

import base64
import collections
import json
import os
import random
import re
import struct
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
    "FOX foxFOX FOX. quick  quicker  Straße x<mask> y <mask>  <extra_id_0>  z<pad><pad><pad>世界世界 ｑｕｉｃｋ "
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


def byte_alphabet():
    kept = [b for b in range(256) if 0x21 <= b <= 0x7E or (b >= 0xA1 and b != 0xAD)]
    others = [b for b in range(256) if b not in kept]
    return {b: chr(b) for b in kept} | {b: chr(256 + i) for i, b in enumerate(others)}


def train_bpe(words, alphabet, merges_wanted):
    """Plain byte-pair encoding of a list of words: the vocabulary in order, and the merges."""
    words = [list(word) for word in words]
    vocabulary = sorted(alphabet)
    merges = []
    while len(merges) < merges_wanted:
        pairs = collections.Counter(pair for word in words for pair in zip(word, word[1:]))
        pair = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(pair)
        if "".join(pair) not in vocabulary:
            vocabulary.append("".join(pair))
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == pair:
                    word[i : i + 2] = ["".join(pair)]
                i += 1
    return vocabulary, merges


def charsmap(rules):
    """A SentencePiece character map: a double-array trie (Darts-clone's units) and its pool."""
    pool = bytearray()
    root = {}
    for text, replacement in rules.items():
        node = root
        for byte in text.encode():
            node = node.setdefault(byte, {})
        node[0] = len(pool)
        pool += replacement.encode() + b"\0"
    units = {0: 0}
    bases = set()
    waiting = [(0, root)]
    least = 1
    while waiting:
        position, node = waiting.pop()
        base = least
        while base in bases or any((base ^ label) in units for label in node):
            base += 1
        bases.add(base)
        if len(node) > 3:
            least = max(least, base - 64)
        units[position] |= (position ^ base) << 10 | (0 in node) << 8
        for label, child in node.items():
            units[base ^ label] = label if label else 1 << 31 | child
            if label:
                waiting.append((base ^ label, child))
    size = (max(units) | 0xFF) + 1
    trie = b"".join(struct.pack("<I", units.get(i, 0)) for i in range(size))
    return base64.b64encode(struct.pack("<I", len(trie)) + trie + bytes(pool)).decode()


def compatibility_rules():
    rules = {"\u200b": "", "\ufeff": " ", "\t": " ", "\n": " ", "e\u0301": "é"}
    for code in list(range(0x80, 0xD800)) + list(range(0xF900, 0x10000)) + list(range(0x1D400, 0x1D800)):
        text = chr(code)
        made = unicodedata.normalize("NFKC", text)
        if made != text and unicodedata.ucd_3_2_0.category(text) != "Cn":
            rules[text] = made
    return rules


def added(first_id, known):
    def token(content, index, **flags):
        row = {"id": known.get(content, index), "content": content, "single_word": False, "lstrip": False}
        return row | {"rstrip": False, "normalized": False, "special": True} | flags

    return [
        token("<unk>", first_id),
        token("<s>", first_id + 1),
        token("</s>", first_id + 2),
        token("<mask>", first_id + 3, lstrip=True),
        token("<extra_id_0>", first_id + 4, rstrip=True, special=False),
        token("FOX", first_id + 5, single_word=True, special=False),
        token("quick", first_id + 6, single_word=True, normalized=True, special=False),
        token("Straße", first_id + 7, normalized=True, special=False, lstrip=True, rstrip=True),
        token("<pad>", first_id + 8, normalized=True),
        token("<pad><pad>", first_id + 9, normalized=True),
        token("世界", first_id + 10, normalized=True, special=False),
    ]


def template(before, behind):
    def piece(name, type_id=0):
        return {"SpecialToken": {"id": name, "type_id": type_id}}

    single = [piece(n) for n in before] + [{"Sequence": {"id": "A", "type_id": 0}}] + [piece(n) for n in behind]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}] + [piece(n, 1) for n in behind],
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in (("<s>", 1), ("</s>", 2))},
    }


def variants():
    """Name -> (model, normalizer, pre_tokenizer, post_processor, decoder)."""
    text = " ".join(list(SCRIPTS.values()) + CODE + NUMBERS)
    seq = lambda key, *parts: {"type": "Sequence", key: list(parts)}
    plain = lambda name, **options: {"type": name} | options
    split = lambda behavior, invert=False, **pattern: plain("Split", pattern=pattern, behavior=behavior, invert=invert)
    meta = lambda scheme, **options: plain("Metaspace", replacement="▁", prepend_scheme=scheme, **options)
    byte_level = lambda prefix, regex=True: plain("ByteLevel", add_prefix_space=prefix, trim_offsets=True, use_regex=regex)
    specials = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{b:02X}>" for b in range(256)]
    marked = ["▁" + word for word in text.split()]
    common = [c for c, n in collections.Counter(text).items() if n > 2 and c not in SPACES] + ["▁"]
    pieces, merges = train_bpe([[c for c in w if c in common] for w in marked], common, 300)

    def bpe(names, merges, **options):
        vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
        base = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
        base |= {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
        return {"type": "BPE"} | base | options | {"vocab": vocab, "merges": [list(m) for m in merges]}

    def unigram(names, **options):
        counts = collections.Counter("".join(marked)[i : i + n] for n in (1, 2, 3, 4) for i in range(len("".join(marked))))
        rng = random.Random(7)
        vocab = [[n, 0.0] for n in specials] + [[n, -20.0] for n in names if n.startswith("<0x")]
        vocab += [[n, -12.0 + 0.5 * counts[n] ** 0.5 - rng.random()] for n in names if not n.startswith("<0x")]
        return {"type": "Unigram", "unk_id": 0, "vocab": vocab} | options

    alphabet = byte_alphabet()
    to_bytes = lambda t: "".join(alphabet[b] for b in t.encode())
    gpt2_words = [to_bytes(w) for w in re.findall(r" ?\w+| ?[^\w\s]+|\s+", text)]
    byte_pieces, byte_merges = train_bpe(gpt2_words, alphabet.values(), 400)
    metaspace_bpe = bpe(specials + fallback + pieces, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    unknown_bpe = bpe(specials + pieces, merges, unk_token="<unk>")
    partial = bpe(specials + fallback[:200] + pieces, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    byte_bpe = bpe(specials + byte_pieces, byte_merges)
    some_bytes = bpe(specials + [p for p in byte_pieces if p not in byte_pieces[30:60]][:200], [], unk_token="<unk>")
    pieces_of = unigram(pieces)
    legacy = seq("decoders", plain("Replace", pattern={"String": "▁"}, content=" "), plain("ByteFallback"), plain("Fuse"),
                 plain("Strip", content=" ", start=1, stop=0))
    bos, eos = template(["<s>"], []), template([], ["</s>"])
    return {
        "bpe-legacy": (metaspace_bpe, seq("normalizers", plain("Prepend", prepend="▁"),
                       plain("Replace", pattern={"String": " "}, content="▁")), None, bos, legacy),
        "bpe-metaspace-first": (metaspace_bpe, None, meta("first", split=False), bos, meta("first", split=False)),
        "bpe-metaspace-always": (metaspace_bpe, None, meta("always", split=True), template(["<s>"], ["</s>"]), meta("always")),
        "bpe-metaspace-never": (metaspace_bpe, None, meta("never"), None, meta("never")),
        "bpe-unknown": (unknown_bpe, plain("NFC"), plain("Metaspace", replacement="▁", add_prefix_space=True), None, None),
        "bpe-unknown-fused": (unknown_bpe | {"fuse_unk": True}, plain("NFKC"), meta("first"), eos, meta("first")),
        "bpe-part-of-bytes": (partial, plain("NFD"), meta("always"), bos, legacy),
        "bpe-ignore-merges": (metaspace_bpe | {"ignore_merges": True}, None, meta("always"), None, legacy),
        "byte-level": (byte_bpe, None, byte_level(False), plain("ByteLevel", trim_offsets=True, add_prefix_space=False), byte_level(True)),
        "byte-level-prefix": (byte_bpe, plain("NFKD"), byte_level(True), plain("RobertaProcessing", sep=["</s>", 2], cls=["<s>", 1],
                              trim_offsets=True, add_prefix_space=False), byte_level(True)),
        "byte-level-whole": (byte_bpe, plain("Lowercase"), byte_level(True, False),
                             seq("processors", byte_level(False), template(["<s>"], ["</s>"]), byte_level(True)), byte_level(False)),
        "byte-level-some-bytes": (some_bytes, None, byte_level(False), plain("BertProcessing", sep=["</s>", 2], cls=["<s>", 1]), byte_level(False)),
        "digits-each": (byte_bpe, None, seq("pretokenizers", plain("Digits", individual_digits=True), byte_level(False)), None, byte_level(False)),
        "digits-runs": (byte_bpe, None, seq("pretokenizers", plain("Digits", individual_digits=False), byte_level(True)), None, byte_level(False)),
        "punctuation": (byte_bpe, None, seq("pretokenizers", plain("Punctuation"), byte_level(False, False)), None, byte_level(False)),
        "punctuation-contiguous": (byte_bpe, None, seq("pretokenizers", plain("Punctuation", behavior="Contiguous"), byte_level(False, False)),
                                   None, byte_level(False)),
        "whitespace": (byte_bpe, None, seq("pretokenizers", plain("Whitespace"), byte_level(False, False)), None, byte_level(False)),
        "whitespace-split": (byte_bpe, plain("StripAccents"), seq("pretokenizers", plain("WhitespaceSplit"), byte_level(False, False)), None, byte_level(False)),
        "split-removed": (byte_bpe, plain("Strip", strip_left=True, strip_right=True),
                          seq("pretokenizers", split("Removed", Regex="[aeiou\\s]+"), byte_level(False, False)), None, byte_level(False)),
        "split-kept": (byte_bpe, plain("Strip", strip_left=True, strip_right=False),
                       seq("pretokenizers", split("Removed", invert=True, Regex="\\w+"), byte_level(False, False)), None, byte_level(False)),
        "split-previous": (byte_bpe, seq("normalizers", plain("NFD"), plain("StripAccents")),
                           seq("pretokenizers", split("MergedWithPrevious", Regex="\\d|\\h{2}"), byte_level(False, False)), None, byte_level(False)),
        "split-next": (byte_bpe, plain("Replace", pattern={"Regex": "(.)\\1"}, content="≈"),
                       seq("pretokenizers", split("MergedWithNext", Regex="\\s|\\b(?=[A-Z])"), byte_level(False, False)), None, byte_level(False)),
        "split-contiguous": (byte_bpe, plain("Replace", pattern={"String": "a"}, content=""),
                             seq("pretokenizers", split("Contiguous", String="e"), byte_level(False, False)), None, byte_level(False)),
        "split-empty": (byte_bpe, plain("Replace", pattern={"Regex": "x+"}, content="-"),
                        seq("pretokenizers", split("Isolated", Regex="b*|^\\W|\\S$"), byte_level(False, False)), None, byte_level(False)),
        "split-kinds": (byte_bpe, None, seq("pretokenizers", split("Isolated", Regex="\\u4e16|[^\\s\\w]+|\\H\\D|[\\h\\d]\\B"),
                        seq("pretokenizers", split("MergedWithNext", String=" "), byte_level(False, False))), None, byte_level(False)),
        "unigram": (pieces_of, None, meta("always"), eos, meta("always")),
        "unigram-t5": (pieces_of, plain("Precompiled", precompiled_charsmap=charsmap(compatibility_rules())),
                       seq("pretokenizers", plain("WhitespaceSplit"), meta("always")), eos, meta("always")),
        "unigram-bytes": (unigram(fallback + pieces, byte_fallback=True), seq("normalizers", plain("NFKC"),
                          plain("Replace", pattern={"Regex": " {2,}"}, content=" "), plain("Lowercase")), meta("first", split=False), bos,
                          seq("decoders", plain("ByteFallback"), meta("first"), plain("Strip", content="x", start=2, stop=0))),
    }


def make(folder):
    os.makedirs(folder, exist_ok=True)
    for name, (model, normalizer, pre_tokenizer, post_processor, decoder) in variants().items():
        vocab = model["vocab"]
        known = vocab if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
        parts = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder}
        whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added(len(vocab) - 3, known)}
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as out:
            json.dump(whole | parts | {"model": model}, out, ensure_ascii=False)


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
    elif command == "make" and len(arguments) == 1:
        make(*arguments)
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
