//! Adapters in the passes: their places in the arena, what they add forward, their gradients backward.
//!
//! Targets that read one input form a group: their `A` stand one after the other, so that one product makes the low rows
//! `low [N,G·r] = alpha / rank · dropout(x) · Aᵀ` of all of them. `low` is kept for the backward pass.

use super::{Model, Pass};
use crate::config::Config;
use crate::device::{Device, Dropout, Matrix, Span};
use crate::lora::{GROUPS, LoraConfig};

/// Index of a group in [`GROUPS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Qkv,
    Out,
    GateUp,
    Down,
}

/// The matrices of one group in one layer (or their gradients).
#[derive(Clone, Debug)]
pub(crate) struct GroupAdapter {
    /// Width of the input.
    input: usize,
    /// `[G·r, I]`.
    a: Span,
    parts: Vec<Part>,
}

/// One target of a group.
#[derive(Clone, Debug)]
struct Part {
    /// `[O, r]`.
    b: Span,
    /// Where its output stands in a row of the group's outputs.
    first_column: usize,
    width: usize,
}

/// Adapters of one layer, in the order of [`GROUPS`].
pub(crate) type LayerAdapters = [Option<GroupAdapter>; 4];

/// All adapters of a model that is trained with them.
pub(crate) struct Adapters {
    pub(crate) lora: LoraConfig,
    pub(crate) layers: Vec<LayerAdapters>,
    pub(crate) gradients: Vec<LayerAdapters>,
    /// Gradient of the low rows, `[N, 3r]` at most.
    dlow: Span,
    /// Inputs after dropout, or their gradient before it; empty without dropout.
    dropped: Span,
}

/// The layer and group that an operation is about.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) layer: usize,
    pub(super) group: Group,
}

/// What a group's products read and write forward, and the low rows in between.
#[derive(Clone, Copy)]
pub(super) struct GroupRows {
    /// Input, `[N, I]`.
    pub(super) x: Span,
    /// Outputs side by side, `[N, ΣO]`, or their gradient.
    pub(super) y: Span,
    /// `[N, G·r]`.
    pub(super) low: Span,
}

impl Adapters {
    /// Numbers of low rows per token and layer, group by group.
    pub(crate) fn low_widths(lora: &LoraConfig) -> [usize; 4] {
        GROUPS.map(|group| lora.rank * group.iter().filter(|target| lora.has(**target)).count())
    }

    /// Places of all matrices that stand one after the other in `values`, and of their gradients in `gradients`.
    pub(crate) fn at(
        config: &Config,
        lora: &LoraConfig,
        (values, gradients): (Span, Span),
        scratch: (Span, Span),
    ) -> Adapters {
        Adapters {
            lora: lora.clone(),
            layers: layers(config, lora, values),
            gradients: layers(config, lora, gradients),
            dlow: scratch.0,
            dropped: scratch.1,
        }
    }

    /// Lengths of the two scratch spans of [`Adapters::at`] for `n` tokens.
    pub(crate) fn scratch(config: &Config, lora: &LoraConfig, n: usize) -> (usize, usize) {
        let low = Adapters::low_widths(lora).into_iter().max().unwrap_or(0);
        let widest = lora.targets.iter().map(|target| target.widths(config).0).max().unwrap_or(0);
        (n * low, if lora.dropout > 0.0 { n * widest } else { 0 })
    }
}

fn layers(config: &Config, lora: &LoraConfig, all: Span) -> Vec<LayerAdapters> {
    let mut next = 0;
    let mut take = |len: usize| {
        next += len;
        all.part(next - len, len)
    };
    let layers = (0..config.num_layers).map(|_| {
        GROUPS.map(|group| {
            let mut first_column = 0;
            let mut columns = Vec::new();
            for target in group {
                let width = target.widths(config).1;
                if lora.has(*target) {
                    columns.push((first_column, width));
                }
                first_column += width;
            }
            let input = group[0].widths(config).0;
            (!columns.is_empty()).then(|| {
                let a = take(columns.len() * lora.rank * input);
                let part = |(first_column, width)| Part { b: take(width * lora.rank), first_column, width };
                GroupAdapter { input, a, parts: columns.into_iter().map(part).collect() }
            })
        })
    });
    let layers: Vec<LayerAdapters> = layers.collect();
    assert_eq!(next, all.len, "every matrix has its place");
    layers
}

impl GroupAdapter {
    fn low_width(&self) -> usize {
        self.a.len / self.input
    }
}

impl Model {
    /// y += what the group's adapters give for x.
    pub(super) fn adapt(&self, device: &mut dyn Device, pass: &Pass<'_>, place: Place, rows: GroupRows) {
        let Some((adapters, group)) = self.adapter(place) else { return };
        let (low, rank) = (low_matrix(group, pass, rows.low), adapters.lora.rank);
        let x = self.adapter_input(device, pass, place, rows.x);
        device.matmul(low, x.matrix(group.input), group.a.matrix(group.input).transposed(), false);
        device.scale(rows.low.first(low.rows * low.cols), adapters.lora.scaling() as f32);
        let y = outputs(pass, rows.y);
        for (i, part) in group.parts.iter().enumerate() {
            let y = y.columns(part.first_column, part.width);
            device.matmul(y, low.columns(i * rank, rank), part.b.matrix(rank).transposed(), true);
        }
    }

    /// For the gradient y of the group's outputs: gradients of its `B`, and dx += the gradient of its input. Leaves what
    /// [`Model::adapt_backward_a`] needs.
    pub(super) fn adapt_backward(&self, device: &mut dyn Device, pass: &Pass<'_>, place: Place, rows: GroupRows) {
        let Some((adapters, group)) = self.adapter(place) else { return };
        let gradients = adapters.gradients[place.layer][place.group as usize].as_ref().expect("as the values");
        let rank = adapters.lora.rank;
        let (low, dlow) = (low_matrix(group, pass, rows.low), low_matrix(group, pass, adapters.dlow));
        let dy = outputs(pass, rows.y);
        for (i, (part, gradient)) in group.parts.iter().zip(&gradients.parts).enumerate() {
            let dy = dy.columns(part.first_column, part.width);
            device.matmul(dlow.columns(i * rank, rank), dy, part.b.matrix(rank), false);
            device.matmul(gradient.b.matrix(rank), dy.transposed(), low.columns(i * rank, rank), true);
        }
        device.scale(adapters.dlow.first(dlow.rows * dlow.cols), adapters.lora.scaling() as f32);
        let (dx, a) = (rows.x, group.a.matrix(group.input));
        match self.dropout(pass, place) {
            None => device.matmul(dx.matrix(group.input), dlow, a, true),
            Some(dropout) => {
                let dropped = adapters.dropped.first(dx.len);
                device.matmul(dropped.matrix(group.input), dlow, a, false);
                device.dropout(dx, dropped, dropout, true);
            }
        }
    }

    /// After [`Model::adapt_backward`]: gradients of the group's `A`, for its input x.
    pub(super) fn adapt_backward_a(&self, device: &mut dyn Device, pass: &Pass<'_>, place: Place, x: Span) {
        let Some((adapters, group)) = self.adapter(place) else { return };
        let gradients = adapters.gradients[place.layer][place.group as usize].as_ref().expect("as the values");
        let x = self.adapter_input(device, pass, place, x);
        let dlow = low_matrix(group, pass, adapters.dlow);
        device.matmul(gradients.a.matrix(group.input), dlow.transposed(), x.matrix(group.input), true);
    }

    fn adapter(&self, place: Place) -> Option<(&Adapters, &GroupAdapter)> {
        let adapters = self.layout.adapters.as_ref()?;
        Some((adapters, adapters.layers[place.layer][place.group as usize].as_ref()?))
    }

    fn adapter_input(&self, device: &mut dyn Device, pass: &Pass<'_>, place: Place, x: Span) -> Span {
        let (Some(dropout), Some(adapters)) = (self.dropout(pass, place), &self.layout.adapters) else { return x };
        let dropped = adapters.dropped.first(x.len);
        device.dropout(dropped, x, dropout, false);
        dropped
    }

    /// The mask of a group in this pass; none when the pass does not train or nothing is dropped.
    fn dropout(&self, pass: &Pass<'_>, place: Place) -> Option<Dropout> {
        let rate = self.layout.adapters.as_ref()?.lora.dropout as f32;
        let seed = pass.dropout_seed?;
        let index = (place.layer * GROUPS.len() + place.group as usize) as u64;
        // Far apart for every layer, group and micro-batch: the hash of a number starts from seed + number · odd.
        (rate > 0.0).then(|| Dropout { seed: mix(seed ^ mix(index)), rate })
    }
}

/// One step of SplitMix64: nearby numbers become unrelated ones.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn low_matrix(group: &GroupAdapter, pass: &Pass<'_>, low: Span) -> Matrix {
    let width = group.low_width();
    low.first(pass.num_tokens() * width).matrix(width)
}

fn outputs(pass: &Pass<'_>, y: Span) -> Matrix {
    y.matrix(y.len / pass.num_tokens())
}
