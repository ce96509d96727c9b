//! Tests of `format`.

use super::*;

#[test]
fn the_name_tells_the_format_in_either_case() {
    let of = |name: &str| Format::of(Path::new(name));
    assert_eq!(of("a.jsonl"), Ok(Format::Lines(Packing::Plain)));
    assert_eq!(of("a"), Ok(Format::Lines(Packing::Plain)));
    assert_eq!(of("x/a.JSONL.GZ"), Ok(Format::Lines(Packing::Gzip)));
    assert_eq!(of("a.gz"), Ok(Format::Lines(Packing::Gzip)));
    assert_eq!(of("a.jsonl.zst"), Ok(Format::Lines(Packing::Zstd)));
    assert_eq!(of("a.csv.gz"), Ok(Format::Csv { packing: Packing::Gzip, delimiter: b',' }));
    assert_eq!(of("a.tsv"), Ok(Format::Csv { packing: Packing::Plain, delimiter: b'\t' }));
    assert_eq!(of("a.Parquet"), Ok(Format::Parquet));
    assert_eq!(of("a.parquet.zst").unwrap_err().0, "parquet");
    assert_eq!(of("a.jsonl.xz").unwrap_err().0, "xz");
}

/// A zstd file is whole at the end of each frame and nowhere else; checksummed, skippable and several frames too.
#[test]
fn zstd_is_whole_at_the_end_of_a_frame_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl.zst");
    let text: Vec<u8> = (0..300_000u32).flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let one = zstd::encode_all(&text[..], 1).unwrap();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut encoder, b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").unwrap();
    let two = encoder.finish().unwrap();
    let skippable = [0x52, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let all = [&one[..], &skippable, &two].concat();
    let ends = [one.len(), one.len() + skippable.len(), all.len()];
    for len in (0..all.len()).step_by(7919).chain(ends).chain(ends.map(|end| end - 1)) {
        std::fs::write(&path, &all[..len]).unwrap();
        assert_eq!(is_whole(&path).unwrap(), Some(ends.contains(&len)), "{len} of {ends:?}");
    }
}

#[test]
fn parquet_is_whole_with_its_footer_and_gzip_does_not_tell() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let whole = [&b"PAR1columnsfooter"[..], &6u32.to_le_bytes(), b"PAR1"].concat();
    for len in 0..=whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(is_whole(&path).unwrap(), Some(len == whole.len()), "{len}");
    }
    assert_eq!(is_whole(&folder.path().join("none.jsonl.gz")).unwrap(), None);
}
