//! A decoder's weights: matrices in the format that is asked for, norms and biases in f32, each put there as it is read.

use crate::config::Config;
use crate::device::{Device, Span, WeightFormat, WeightMatrix};
use crate::model::{self, Cursor};
use crate::train::check_names;
use crate::weights::{HostWeights, read_parameters};
use anyhow::Result;
use std::path::Path;

/// Where a decoder's weights come from.
#[derive(Clone, Copy, Debug)]
pub enum WeightSource<'a> {
    /// Memory.
    Host(&'a HostWeights),
    /// A model folder, read a few numbers at a time, so that nothing but the decoder's own copy takes memory.
    Folder(&'a Path),
}

/// Where the weights stand.
pub(super) struct Weights {
    /// `[V,H]`.
    pub(super) embedding: WeightMatrix,
    pub(super) layers: Vec<Layer>,
    /// `[H]`.
    pub(super) final_norm: Span,
    /// `[V,H]`; the embedding when tied.
    pub(super) head: WeightMatrix,
    /// By parameter, in the order of [`Config::parameters`].
    places: Vec<Place>,
}

/// Weights of one layer.
pub(super) struct Layer {
    /// `[H]`.
    pub(super) input_norm: Span,
    /// Query, key and value weights: `[(A+2K)D,H]`.
    pub(super) qkv: WeightMatrix,
    /// `[(A+2K)D]`.
    pub(super) qkv_bias: Option<Span>,
    /// Of query and key heads, `[D]` each.
    pub(super) head_norms: Option<(Span, Span)>,
    /// `[H,AD]`.
    pub(super) out: WeightMatrix,
    /// `[H]`.
    pub(super) middle_norm: Span,
    /// Gate and up weights: `[2I,H]`.
    pub(super) gate_up: WeightMatrix,
    /// `[H,I]`.
    pub(super) down: WeightMatrix,
}

/// Where one parameter goes.
#[derive(Clone, Copy)]
enum Place {
    /// Rows of a matrix from this one on.
    Rows(WeightMatrix, usize),
    Numbers(Span),
}

impl Weights {
    pub(super) fn plan(cursor: &mut Cursor, config: &Config, format: WeightFormat) -> Weights {
        let specs = config.parameters();
        let mut places = Vec::new();
        let roles = model::Weights::roles(config, &specs, &mut |role| {
            let specs = &specs[role];
            let rows: usize = specs.iter().map(|spec| spec.shape[0]).sum();
            let Some(&cols) = specs[0].shape.get(1) else {
                let span = cursor.take(rows);
                let mut next = 0;
                places.extend(specs.iter().map(|spec| {
                    next += spec.len();
                    Place::Numbers(span.part(next - spec.len(), spec.len()))
                }));
                return span;
            };
            let span = cursor.take(format.len(rows, cols));
            let matrix = WeightMatrix { span, rows, cols, format };
            let mut next = 0;
            places.extend(specs.iter().map(|spec| {
                next += spec.shape[0];
                Place::Rows(matrix, next - spec.shape[0])
            }));
            span
        });
        let matrices: Vec<WeightMatrix> = places.iter().filter_map(|place| place.matrix()).collect();
        let matrix = |span: Span| *matrices.iter().find(|matrix| matrix.span == span).expect("it was placed");
        let layers = roles.layers.into_iter().map(|layer| Layer {
            input_norm: layer.input_norm,
            qkv: matrix(layer.qkv),
            qkv_bias: layer.qkv_bias,
            head_norms: layer.head_norms,
            out: matrix(layer.out),
            middle_norm: layer.middle_norm,
            gate_up: matrix(layer.gate_up),
            down: matrix(layer.down),
        });
        let (embedding, head) = (matrix(roles.embedding), matrix(roles.head));
        Weights { embedding, layers: layers.collect(), final_norm: roles.final_norm, head, places }
    }

    /// Puts every parameter in its place.
    pub(super) fn load(&self, device: &mut dyn Device, config: &Config, source: WeightSource<'_>) -> Result<()> {
        match source {
            WeightSource::Host(weights) => {
                check_names(config.parameters().iter(), &weights.tensors)?;
                for (place, (_, values)) in self.places.iter().zip(&weights.tensors) {
                    place.store(device, 0, values)?;
                }
            }
            WeightSource::Folder(dir) => {
                let mut filling = self.filling();
                read_parameters(dir, config, &mut |index, numbers| filling.take(device, index, numbers))?;
            }
        }
        Ok(())
    }

    /// Takes parameters in pieces.
    pub(super) fn filling(&self) -> Filling<'_> {
        Filling { places: &self.places, stored: vec![0; self.places.len()], waiting: Vec::new() }
    }
}

/// Parameters that come a few numbers at a time, those of each in order.
pub(super) struct Filling<'a> {
    places: &'a [Place],
    /// Numbers stored of each parameter.
    stored: Vec<usize>,
    /// Numbers of a row that is not whole yet.
    waiting: Vec<f32>,
}

impl Filling<'_> {
    pub(super) fn take(&mut self, device: &mut dyn Device, index: usize, numbers: &[f32]) -> Result<()> {
        let place = self.places[index];
        self.waiting.extend_from_slice(numbers);
        let whole = self.waiting.len() / place.width() * place.width();
        place.store(device, self.stored[index], &self.waiting[..whole])?;
        self.stored[index] += whole;
        self.waiting.drain(..whole);
        Ok(())
    }
}

impl Place {
    fn matrix(self) -> Option<WeightMatrix> {
        match self {
            Place::Rows(matrix, _) => Some(matrix),
            Place::Numbers(_) => None,
        }
    }

    /// How many numbers must be stored together.
    fn width(self) -> usize {
        match self {
            Place::Rows(matrix, _) => matrix.cols,
            Place::Numbers(_) => 1,
        }
    }

    /// Numbers of the parameter from `first` on: whole rows.
    fn store(self, device: &mut dyn Device, first: usize, values: &[f32]) -> Result<()> {
        match self {
            Place::Rows(matrix, row) => device.store_weights(matrix, row + first / matrix.cols, values),
            Place::Numbers(span) => device.upload(span.part(first, values.len()), values),
        }
    }
}
