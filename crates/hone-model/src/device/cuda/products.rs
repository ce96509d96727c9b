//! Products: operands in one format, by cuBLASLt. An f32 operand of a bf16 product is rounded into memory kept for that; the two last
//! of them are remembered until what they were made of is written again.

use super::driver::{Address, Argument, Driver, Operand, Product};
use super::{Cuda, Precision, grid};
use crate::device::{Matrix, NumberFormat, Room, Span, WeightFormat, WeightMatrix};
use anyhow::{Result, ensure};

/// Memory for rounded operands.
#[derive(Default)]
pub(super) struct Conversions {
    places: [Place; 2],
    /// The place that was used last.
    last: usize,
}

/// Memory for one operand.
#[derive(Default)]
struct Place {
    memory: Address,
    bytes: usize,
    /// What the operand that stands there was made of.
    source: Option<Matrix>,
}

impl Conversions {
    pub(super) fn bytes(precision: Precision, room: &Room) -> usize {
        Conversions::sizes(precision, room).iter().sum()
    }

    pub(super) fn allocate(&mut self, driver: &mut dyn Driver, precision: Precision, room: &Room) -> Result<()> {
        *self = Conversions::default();
        for (place, bytes) in self.places.iter_mut().zip(Conversions::sizes(precision, room)) {
            *place = Place { memory: driver.allocate(bytes)?, bytes, source: None };
        }
        Ok(())
    }

    fn sizes(precision: Precision, room: &Room) -> [usize; 2] {
        let size = match precision {
            Precision::Bf16 => 2,
            Precision::F32 => 4,
        };
        [room.largest_operand, room.second_operand].map(|numbers| numbers * size)
    }

    /// Forgets operands that were made of what stands in `span`.
    pub(super) fn forget(&mut self, span: Span) {
        let range = |span: Span| {
            let size = span.format.size();
            (span.offset * size, (span.offset + span.len) * size)
        };
        let (start, end) = range(span);
        for place in &mut self.places {
            let touches = |source: Matrix| {
                let (first, last) = range(source.span());
                start < last && first < end
            };
            if place.source.is_some_and(touches) {
                place.source = None;
            }
        }
    }

    /// A place for an operand of so many bytes that leaves the place `kept` alone.
    fn choose(&self, bytes: usize, kept: Option<usize>) -> Result<usize> {
        let fits = |index: &usize| Some(*index) != kept && self.places[*index].bytes >= bytes;
        // The one that was not used last, if both fit.
        let choice = [1 - self.last, self.last].into_iter().find(fits);
        ensure!(choice.is_some(), "an operand of {bytes} bytes is larger than planned");
        Ok(choice.expect("it is there"))
    }
}

impl Cuda {
    /// c := a · b, or += when `accumulate`.
    pub(super) fn multiply(&mut self, c: Matrix, a: Matrix, b: Matrix, accumulate: bool) -> Result<()> {
        if c.rows == 0 || c.cols == 0 {
            return Ok(());
        }
        if a.cols == 0 {
            if !accumulate {
                crate::device::Device::fill(self, c.span(), 0.0);
            }
            return Ok(());
        }
        // The result is by rows: else its transpose is.
        if c.col_stride != 1 {
            return self.multiply(c.transposed(), b.transposed(), a.transposed(), accumulate);
        }
        let a_first = a.rows * a.cols >= b.rows * b.cols;
        // The larger one first, because it may fit only one place.
        let (larger, smaller) = if a_first { (a, b) } else { (b, a) };
        let (larger, place) = self.operand(larger, None)?;
        let (smaller, _) = self.operand(smaller, place)?;
        let (a_operand, b_operand) = if a_first { (larger, smaller) } else { (smaller, larger) };
        self.product((c, c_operand(self.arena, c)), a_operand, b_operand, (a.cols, accumulate))
    }

    /// y `[N,O]` := x `[N,I]` · wᵀ, or +=.
    pub(super) fn multiply_weights(&mut self, y: Matrix, x: Matrix, w: WeightMatrix, accumulate: bool) -> Result<()> {
        let span =
            |format: NumberFormat| Span { offset: w.span.offset * 4 / format.size(), len: w.rows * w.cols, format };
        match (w.format, self.precision) {
            (WeightFormat::F32, _) => {
                return self.multiply(y, x, span(NumberFormat::F32).matrix(w.cols).transposed(), accumulate);
            }
            (WeightFormat::Bf16, Precision::Bf16) => {
                return self.multiply(y, x, span(NumberFormat::Bf16).matrix(w.cols).transposed(), accumulate);
            }
            _ => {}
        }
        let (format, kernel) = match self.precision {
            Precision::Bf16 => (NumberFormat::Bf16, "expand_int8".to_owned()),
            Precision::F32 => (NumberFormat::F32, format!("take_rows_{}", w.format.name())),
        };
        let index = self.conversions.choose(w.rows * w.cols * format.size(), None)?;
        let memory = self.conversions.places[index].memory;
        self.conversions.places[index].source = None;
        self.expand(&kernel, memory, w);
        let weights = Operand { address: memory, format, stride: w.cols, by_columns: true };
        let (x_operand, _) = self.operand(x, Some(index))?;
        self.product((y, c_operand(self.arena, y)), x_operand, weights, (x.cols, accumulate))
    }

    fn product(
        &mut self,
        (c_matrix, c): (Matrix, Operand),
        a: Operand,
        b: Operand,
        (k, accumulate): (usize, bool),
    ) -> Result<()> {
        if self.fault.is_some() {
            return Ok(());
        }
        self.driver.product(&Product { m: c_matrix.rows, n: c_matrix.cols, k, a, b, c, accumulate })
    }

    /// An operand as the precision wants it, and the place it was converted into.
    fn operand(&mut self, matrix: Matrix, kept: Option<usize>) -> Result<(Operand, Option<usize>)> {
        let by_columns = matrix.col_stride != 1;
        let stored = if by_columns { matrix.transposed() } else { matrix };
        ensure!(stored.col_stride == 1, "an operand's rows or columns are not of consecutive numbers");
        let address = self.address(matrix.span());
        let direct = Operand { address, format: matrix.format, stride: stored.row_stride.max(stored.cols), by_columns };
        match (self.precision, matrix.format) {
            (Precision::F32, NumberFormat::F32) | (Precision::Bf16, NumberFormat::Bf16) => return Ok((direct, None)),
            (Precision::F32, NumberFormat::Bf16) => ensure!(false, "numbers of 16 bits in a device of 32"),
            (Precision::Bf16, NumberFormat::F32) => {}
        }
        let known = |place: &Place| place.source == Some(stored);
        let index = match self.conversions.places.iter().position(known) {
            Some(index) => index,
            None => self.convert(stored, kept)?,
        };
        self.conversions.last = index;
        let address = self.conversions.places[index].memory;
        Ok((Operand { address, format: NumberFormat::Bf16, stride: stored.cols, by_columns }, Some(index)))
    }

    fn convert(&mut self, stored: Matrix, kept: Option<usize>) -> Result<usize> {
        let index = self.conversions.choose(stored.rows * stored.cols * 2, kept)?;
        let place = &mut self.conversions.places[index];
        place.source = Some(stored);
        let memory = place.memory;
        let span = stored.span();
        // Rows without gaps are one row.
        let is_compact = stored.row_stride == stored.cols || stored.rows == 1;
        let (rows, cols) = if is_compact { (1, stored.rows * stored.cols) } else { (stored.rows, stored.cols) };
        let wide = self.is_wide(&[span], cols) && (rows == 1 || stored.row_stride.is_multiple_of(4));
        let numbers = [rows, cols, stored.row_stride].map(|number| Argument::U64(number as u64));
        let arguments =
            [Argument::Address(memory), self.at(span), numbers[0], numbers[1], numbers[2], Argument::U32(wide.into())];
        self.launch("to_bf16", grid(rows, cols, if wide { 8 } else { 1 }), &arguments);
        Ok(index)
    }
}

fn c_operand(arena: Address, c: Matrix) -> Operand {
    let address = arena + (c.offset * c.format.size()) as Address;
    Operand { address, format: c.format, stride: c.row_stride.max(c.cols), by_columns: false }
}
