-- Trace, schema 1. One row per step holds all MoE layers of the step's stack; numbers in blobs are little-endian.
-- crc is CRC-32C over the row's other columns (traces/rowcrc.h says how a column is hashed).
PRAGMA application_id = 0x4D6F4265; -- "MoBe"
PRAGMA user_version = 1;
CREATE TABLE run(
    id INTEGER PRIMARY KEY,
    created TEXT NOT NULL,
    tool TEXT NOT NULL,
    source TEXT NOT NULL,
    model TEXT NOT NULL,
    model_config TEXT,
    device TEXT,
    plan TEXT,
    notes TEXT);
CREATE TABLE layer(
    layer INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    stack TEXT NOT NULL CHECK(stack IN ('decoder', 'encoder')),
    experts INTEGER NOT NULL,
    top_k INTEGER NOT NULL,
    shared_experts INTEGER NOT NULL,
    d_model INTEGER NOT NULL,
    d_ff INTEGER NOT NULL,
    expert_bytes INTEGER NOT NULL,
    gate TEXT);
CREATE TABLE request(
    request INTEGER PRIMARY KEY,
    label TEXT,
    arrival_ns INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL);
CREATE TABLE step(
    step INTEGER PRIMARY KEY,
    phase TEXT NOT NULL CHECK(phase IN ('prefill', 'decode', 'encode', 'mixed')),
    start_ns INTEGER NOT NULL,
    duration_ns INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    request BLOB NOT NULL,  -- u32[tokens]
    position BLOB NOT NULL, -- u32[tokens]
    token BLOB,             -- u32[tokens]
    rank BLOB,              -- u8[tokens]
    crc INTEGER NOT NULL);
CREATE TABLE routing(
    step INTEGER PRIMARY KEY,
    experts BLOB NOT NULL,  -- per MoE layer of the stack: u8 or u16[tokens][top_k]; all ones = dropped
    weights BLOB,           -- f16, same shape
    scores BLOB,            -- f16, layout in run.notes
    crc INTEGER NOT NULL);
CREATE TABLE residency(
    step INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    events BLOB NOT NULL,   -- 40-byte records: u32 layer, expert, kind, slot; u64 bytes, start_ns, duration_ns
    crc INTEGER NOT NULL,
    PRIMARY KEY(step, rank)) WITHOUT ROWID;
CREATE TABLE timing(
    step INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    ops BLOB NOT NULL,      -- 24-byte records: u32 layer, op; u64 start_ns, duration_ns
    crc INTEGER NOT NULL,
    PRIMARY KEY(step, rank)) WITHOUT ROWID;
CREATE TABLE prediction(
    step INTEGER NOT NULL,
    distance INTEGER NOT NULL, -- MoE layers ahead, from 1
    experts BLOB NOT NULL,     -- as routing.experts, of the stack's layers but the first DISTANCE
    scores BLOB NOT NULL,      -- f16, same shape: the predicted weights
    crc INTEGER NOT NULL,
    PRIMARY KEY(step, distance)) WITHOUT ROWID;
-- Of steps whose weights and scores are many: the checksum of step and experts of its row in routing, so that these
-- can be read and checked without the others. A step may have none.
CREATE TABLE experts_crc(
    step INTEGER PRIMARY KEY,
    crc INTEGER NOT NULL);
