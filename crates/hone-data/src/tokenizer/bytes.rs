//! From a token as a vocabulary writes it to the bytes that it adds to a text.

use std::sync::LazyLock;

/// GPT-2's alphabet: the character at each byte's index shows that byte.
static ALPHABET: LazyLock<Vec<char>> = LazyLock::new(|| {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next_hidden = 256;
    (0..=255_u8)
        .map(|byte| {
            if printable(byte) {
                return char::from(byte);
            }
            next_hidden += 1;
            char::from_u32(next_hidden - 1).expect("these code points are letters")
        })
        .collect()
});

/// Bytes of a token. Not byte-level: SentencePiece's marks, `▁` for a space and `<0x0A>` for a byte.
pub(super) fn of_token(token: &str, byte_level: bool) -> Vec<u8> {
    if byte_level {
        let byte = |c: char| ALPHABET.iter().position(|other| *other == c).map(|byte| byte as u8);
        return token
            .chars()
            .flat_map(|c| byte(c).map_or_else(|| c.to_string().into_bytes(), |byte| vec![byte]))
            .collect();
    }
    let named = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    match named.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => token.replace('\u{2581}', " ").into_bytes(),
    }
}
