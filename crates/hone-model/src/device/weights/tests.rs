//! What each format makes of numbers, by its definition.

use super::*;

fn rounded(format: WeightFormat, values: &[f32]) -> Vec<f32> {
    let mut row = values.to_vec();
    format.round(&mut row);
    row
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.731).sin() * (i as f32 * 0.11).cos()).collect()
}

#[test]
fn f32_keeps_every_number() {
    let values = [0.1, -3.5e-20, 7e30, 0.0];
    assert_eq!(rounded(WeightFormat::F32, &values), values);
}

#[test]
fn upper_halves_are_those_of_the_library() {
    // Every upper half, with lower halves at, beside and between the ties.
    for upper in 0..=u16::MAX {
        for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            let value = f32::from_bits(u32::from(upper) << 16 | lower);
            assert_eq!(upper_half(value), half::bf16::from_f32(value).to_bits(), "{upper:x} {lower:x}");
        }
    }
}

#[test]
fn bf16_keeps_eight_bits_of_precision_and_rounds_ties_to_even() {
    // 1 + 2^-7 is the next number after 1; between them, halfway goes to the even one.
    let step = 2f32.powi(-7);
    let values = [1.0, 1.0 + step, 1.0 + step / 2.0, 1.0 + step * 1.5, 1.0 + step * 0.51, -3.0];
    let expected = [1.0, 1.0 + step, 1.0, 1.0 + step * 2.0, 1.0 + step, -3.0];
    assert_eq!(rounded(WeightFormat::Bf16, &values), expected);
}

#[test]
fn int8_is_off_by_half_a_step_of_its_group_at_most() {
    for len in [1, 63, 64, 65, 576] {
        let values = numbers(len);
        let found = rounded(WeightFormat::Int8, &values);
        for (group, found) in values.chunks(GROUP).zip(found.chunks(GROUP)) {
            let most = group.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            for (value, found) in group.iter().zip(found) {
                assert!((value - found).abs() <= most / 127.0 * 0.5 * 1.000_1, "{value} became {found} of {most}");
            }
        }
    }
}

#[test]
fn int8_holds_a_group_of_nothing_and_of_almost_nothing() {
    assert_eq!(rounded(WeightFormat::Int8, &[0.0; 70]), [0.0; 70]);
    assert_eq!(rounded(WeightFormat::Int8, &[1e-40, -1e-42]), [0.0, 0.0]);
    let extremes = [f32::MAX, -f32::MAX, 0.0];
    assert!(rounded(WeightFormat::Int8, &extremes).iter().all(|x| x.is_finite()));
}

#[test]
fn rows_are_stored_and_read_by_themselves_whatever_their_width() {
    for format in WeightFormat::ALL {
        for (rows, cols) in [(1, 1), (3, 5), (5, 64), (4, 131)] {
            let matrix = WeightMatrix { span: Span::default(), rows, cols, format };
            let values = numbers(rows * cols);
            let mut held = vec![f32::NAN; format.len(rows, cols)];
            // The last row first, then the others together.
            matrix.store(&mut held, rows - 1, &values[(rows - 1) * cols..]);
            matrix.store(&mut held, 0, &values[..(rows - 1) * cols]);
            for row in 0..rows {
                let expected = rounded(format, &values[row * cols..(row + 1) * cols]);
                for first in [0, cols / 2] {
                    let mut found = vec![f32::NAN; cols - first];
                    matrix.held(&held).read(cols, row, first, &mut found);
                    assert_eq!(found, expected[first..], "{format:?} {rows} x {cols}, row {row} from {first}");
                }
            }
        }
    }
}
