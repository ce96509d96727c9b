//! Where weights, gradients, kept activations and scratch stand in the arena. Made once, before the first step; its
//! length is the exact use of memory.

use super::adapters::Adapters;
use crate::config::{Config, ParameterSpec};
use crate::device::{Device, Heads, NumberFormat, Room, Span};
use crate::train::TrainerOptions;
use anyhow::{Result, ensure};
use std::ops::Range;

/// Spans begin at multiples of this many numbers (64 bytes).
const ALIGNMENT: usize = 16;

/// What a layout is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Gradients, moments and activations of every layer.
    Train,
    /// Activations of one layer at a time.
    Score,
}

/// Everything in the arena.
pub(crate) struct Layout {
    /// What it takes of the device.
    pub(crate) room: Room,
    /// All parameters, one after the other in the order of [`Config::parameters`].
    pub(crate) parameters: Span,
    /// The same parameters, by role.
    pub(crate) weights: Weights,
    /// Matrices of the adapters, one after the other; empty without.
    pub(crate) adapter_values: Span,
    /// Present for training with LoRA.
    pub(crate) adapters: Option<Adapters>,
    /// Present for [`Purpose::Train`].
    pub(crate) training: Option<Training>,
    /// `[P, D]`; see [`crate::Rope::table`].
    pub(crate) rope_table: Span,
    /// One per layer for [`Purpose::Train`], else one for all.
    layers: Vec<LayerBuffers>,
    pub(crate) scratch: Scratch,
    /// Rows of a block of logits.
    pub(crate) head_rows: usize,
}

/// What training needs beside the weights. Gradients and moments are laid out alike: the trained roles of the model in
/// the order of the parameters, then the adapters. Products that are one for several parameters (query, key and value;
/// gate and up) have gradients for all of them as soon as one is trained.
pub(crate) struct Training {
    pub(crate) gradients: Span,
    /// Empty spans where nothing is trained.
    pub(crate) gradients_by_role: Weights,
    pub(crate) first_moments: Span,
    pub(crate) second_moments: Span,
    /// What is trained.
    pub(crate) tensors: Vec<Trained>,
    /// Where gradients of frozen norms go: `[H + 2D]`, never read.
    pub(crate) discarded: Span,
}

/// One trained tensor.
#[derive(Clone, Debug)]
pub(crate) struct Trained {
    pub(crate) spec: ParameterSpec,
    /// Its numbers.
    pub(crate) values: Span,
    /// Where its gradient begins in [`Training::gradients`], and its moments in theirs.
    pub(crate) start: usize,
}

/// Parameters (or their gradients) by role.
pub(crate) struct Weights {
    /// `[V,H]`.
    pub(crate) embedding: Span,
    pub(crate) layers: Vec<LayerWeights>,
    /// `[H]`.
    pub(crate) final_norm: Span,
    /// `[V,H]`; the embedding when tied.
    pub(crate) head: Span,
}

pub(crate) struct LayerWeights {
    /// `[H]`.
    pub(crate) input_norm: Span,
    /// Query, key and value weights: `[(A+2K)D,H]`.
    pub(crate) qkv: Span,
    /// `[(A+2K)D]`.
    pub(crate) qkv_bias: Option<Span>,
    /// Of query and key heads, `[D]` each.
    pub(crate) head_norms: Option<(Span, Span)>,
    /// `[H,AD]`.
    pub(crate) out: Span,
    /// `[H]`.
    pub(crate) middle_norm: Span,
    /// Gate and up weights: `[2I,H]`.
    pub(crate) gate_up: Span,
    /// `[H,I]`.
    pub(crate) down: Span,
}

/// Activations of one layer that the backward pass reads.
#[derive(Clone, Copy)]
pub(crate) struct LayerBuffers {
    /// Residual before the layer, `[N,H]`; only for training.
    pub(crate) input: Option<Span>,
    /// `[N]`.
    pub(crate) input_scale: Span,
    /// `[N,(A+2K)D]`.
    pub(crate) qkv: Span,
    /// `[N,AD]`.
    pub(crate) attended: Span,
    /// `[A,N]`.
    pub(crate) lse: Span,
    /// Residual between attention and the rest, `[N,H]`; only for training.
    pub(crate) middle: Option<Span>,
    /// `[N]`.
    pub(crate) middle_scale: Span,
    /// `[N,2I]`; the backward pass leaves its gradient here.
    pub(crate) gate_up: Span,
    /// Low rows of the adapters, `[N, G·r]` for each group; empty without.
    pub(crate) low: [Span; 4],
}

/// Buffers that all layers share.
pub(crate) struct Scratch {
    /// The residual; in the backward pass its gradient, `[N,H]`.
    pub(crate) hidden: Span,
    /// `[N,H]`.
    pub(crate) normed: Span,
    /// `[N,(A+K)D]`.
    pub(crate) rotated: Span,
    /// `[N,A+K]`.
    pub(crate) head_scale: Span,
    /// `[N,I]`.
    pub(crate) active: Span,
    /// The residual of a layer that is computed again in the backward pass, `[N,H]`; empty where nothing is.
    pub(crate) again: Span,
    /// Rows whose logits are wanted, `[N,H]`.
    pub(crate) picked: Span,
    /// `[N]`.
    pub(crate) final_scale: Span,
    /// `[head_rows,V]`.
    pub(crate) logits: Span,
    /// `[N]`.
    pub(crate) losses: Span,
    /// `[N]`.
    pub(crate) correct: Span,
    /// The device's own.
    pub(crate) workspace: Span,
    /// Gradients in the backward pass; empty for scoring.
    pub(crate) dnormed: Span,
    pub(crate) dpicked: Span,
    pub(crate) dattended: Span,
    pub(crate) dqkv: Span,
}

/// Hands out spans one after the other.
#[derive(Clone, Default)]
pub(crate) struct Cursor {
    next: usize,
}

impl Cursor {
    pub(crate) fn take(&mut self, len: usize) -> Span {
        let span = Span::f32(self.next, len);
        self.next = (self.next + len).next_multiple_of(ALIGNMENT);
        span
    }

    /// As [`Cursor::take`], of numbers that are held in a format.
    pub(crate) fn take_as(&mut self, len: usize, format: NumberFormat) -> Span {
        let per_word = size_of::<f32>() / format.size();
        let Span { offset, .. } = self.take(len.div_ceil(per_word));
        Span { offset: offset * per_word, len, format }
    }

    /// Goes behind what another cursor took from the same beginning: what the two hand out overlaps.
    pub(crate) fn join(&mut self, other: &Cursor) {
        self.next = self.next.max(other.next);
    }

    /// Numbers of 32 bits handed out, gaps included.
    pub(crate) fn taken(&self) -> usize {
        self.next
    }
}

impl Layout {
    pub(crate) fn plan(
        config: &Config,
        options: &TrainerOptions,
        purpose: Purpose,
        device: &dyn Device,
    ) -> Result<Layout> {
        let (n, longest) = (options.max_tokens, options.max_segment_tokens.min(options.max_tokens));
        ensure!(n > 0 && longest > 0, "max_tokens and max_segment_tokens must be above 0");
        ensure!(
            longest <= config.max_positions,
            "segments of {longest} tokens are longer than the model's {} positions (max_position_embeddings)",
            config.max_positions
        );
        let heads = Heads { num_heads: config.num_heads, num_kv_heads: config.num_kv_heads, head_dim: config.head_dim };
        let method = &options.method;
        let specs = config.parameters();
        let lora = method.lora.as_ref().filter(|_| purpose == Purpose::Train);
        let format = device.activation_format();
        let mut cursor = Cursor::default();
        let parameters = cursor.take(config.num_parameters());
        let adapter_specs = lora.map_or_else(Vec::new, |lora| lora.parameters(config));
        let adapter_values = cursor.take(adapter_specs.iter().map(ParameterSpec::len).sum());
        let training = match purpose {
            Purpose::Score => None,
            Purpose::Train => {
                let is_trained = method.trained(&specs)?;
                let adapters = (adapter_specs.as_slice(), adapter_values);
                Some(Training::take(&mut cursor, config, (&specs, parameters, &is_trained), adapters))
            }
        };
        let adapters = lora.zip(training.as_ref()).map(|(lora, training)| {
            let (dlow, dropped) = Adapters::scratch(config, lora, n);
            let gradients = training.gradients.part(training.gradients.len - adapter_values.len, adapter_values.len);
            let scratch = (cursor.take_as(dlow, format), cursor.take_as(dropped, format));
            Adapters::at(config, lora, (adapter_values, gradients), scratch)
        });
        let rope_table = cursor.take(longest * config.head_dim);
        let low_widths = lora.map_or([0; 4], Adapters::low_widths);
        let sizes = BufferSizes { n, low_widths, is_kept: purpose == Purpose::Train, format };
        let layers = match purpose {
            Purpose::Score => vec![LayerBuffers::take(&mut cursor, config, heads, sizes)],
            Purpose::Train if method.recompute => LayerBuffers::take_shared(&mut cursor, config, heads, sizes),
            Purpose::Train => {
                (0..config.num_layers).map(|_| LayerBuffers::take(&mut cursor, config, heads, sizes)).collect()
            }
        };
        let head_rows = (device.logits_block() / config.vocab_size / 64 * 64).clamp(64, 1024).min(n);
        let scratch = Scratch::take(&mut cursor, config, (heads, format), (n, head_rows), purpose);
        let again = cursor.take(if purpose == Purpose::Train && method.recompute { n * config.hidden_size } else { 0 });
        let workspace = cursor.take(device.attention_workspace(longest, heads));
        let scratch = Scratch { workspace, again, ..scratch };
        let weights = Weights::at(parameters, config, &specs);
        let room = Room { len: cursor.next, ..product_room(config, n) };
        Ok(Layout {
            room,
            parameters,
            weights,
            adapter_values,
            adapters,
            training,
            rope_table,
            layers,
            scratch,
            head_rows,
        })
    }

    /// Buffers of a layer.
    pub(crate) fn kept(&self, layer: usize) -> &LayerBuffers {
        &self.layers[layer % self.layers.len()]
    }
}

impl Training {
    /// `specs` stand at `parameters` and are trained where `is_trained` says so; the adapters all are.
    fn take(
        cursor: &mut Cursor,
        config: &Config,
        (specs, parameters, is_trained): (&[ParameterSpec], Span, &[bool]),
        (adapter_specs, adapter_values): (&[ParameterSpec], Span),
    ) -> Training {
        let mut tensors = Vec::new();
        let (mut value, mut next) = (0, 0);
        Weights::roles(config, specs, &mut |role| {
            let has_gradient = is_trained[role.clone()].contains(&true);
            for index in role {
                let len = specs[index].len();
                let values = parameters.part(value, len);
                value += len;
                if is_trained[index] {
                    tensors.push(Trained { spec: specs[index].clone(), values, start: next });
                }
                next += if has_gradient { len } else { 0 };
            }
            Span::default()
        });
        let model_len = next;
        let mut value = 0;
        for spec in adapter_specs {
            let values = adapter_values.part(value, spec.len());
            tensors.push(Trained { spec: spec.clone(), values, start: next });
            value += spec.len();
            next += spec.len();
        }
        let gradients = cursor.take(next);
        let mut start = 0;
        let gradients_by_role = Weights::roles(config, specs, &mut |role| {
            let is_empty = !is_trained[role.clone()].contains(&true);
            let len = if is_empty { 0 } else { specs[role].iter().map(ParameterSpec::len).sum() };
            start += len;
            gradients.part(start - len, len)
        });
        assert_eq!(start, model_len, "both walks see the same roles");
        Training {
            gradients,
            gradients_by_role,
            first_moments: cursor.take(next),
            second_moments: cursor.take(next),
            tensors,
            discarded: cursor.take(config.hidden_size + 2 * config.head_dim),
        }
    }
}

impl Weights {
    /// Roles of parameters that stand one after the other in `all`.
    pub(crate) fn at(all: Span, config: &Config, specs: &[ParameterSpec]) -> Weights {
        let mut next = 0;
        let weights = Weights::roles(config, specs, &mut |role| {
            let len = specs[role].iter().map(ParameterSpec::len).sum();
            next += len;
            all.part(next - len, len)
        });
        assert_eq!(next, all.len, "every parameter has its role");
        weights
    }

    /// Asks `place` where each role stands, given the range of parameters that it is made of, in their order.
    pub(crate) fn roles(
        config: &Config,
        specs: &[ParameterSpec],
        place: &mut dyn FnMut(Range<usize>) -> Span,
    ) -> Weights {
        let mut next = 0;
        // Takes the parameters whose names end in one of `suffixes`, which must follow each other here.
        let mut take = |suffixes: &[&str]| {
            let start = next;
            for suffix in suffixes {
                let spec = specs.get(next).expect("every role has its parameter");
                assert!(spec.name.ends_with(suffix), "{} stands where {suffix} is expected", spec.name);
                next += 1;
            }
            place(start..next)
        };
        let embedding = take(&["embed_tokens.weight"]);
        let layers = (0..config.num_layers)
            .map(|_| LayerWeights {
                input_norm: take(&["input_layernorm.weight"]),
                qkv: take(&["q_proj.weight", "k_proj.weight", "v_proj.weight"]),
                qkv_bias: config.qkv_bias().then(|| take(&["q_proj.bias", "k_proj.bias", "v_proj.bias"])),
                head_norms: config.head_norms().then(|| (take(&["q_norm.weight"]), take(&["k_norm.weight"]))),
                out: take(&["o_proj.weight"]),
                middle_norm: take(&["post_attention_layernorm.weight"]),
                gate_up: take(&["gate_proj.weight", "up_proj.weight"]),
                down: take(&["down_proj.weight"]),
            })
            .collect();
        let final_norm = take(&["model.norm.weight"]);
        let head = if config.tied { embedding } else { take(&["lm_head.weight"]) };
        assert_eq!(next, specs.len(), "every parameter has its role");
        Weights { embedding, layers, final_norm, head }
    }
}

/// Sizes of operands that are held in 32 bits, for passes of `n` tokens: weights and residuals (or their gradients).
pub(crate) fn product_room(config: &Config, n: usize) -> Room {
    let (h, i, heads) = (config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim);
    let qkv = heads + 2 * config.num_kv_heads * config.head_dim;
    let widest = [h, i, heads].into_iter().max().unwrap_or(0);
    let weights = h * [config.vocab_size, qkv, 2 * i].into_iter().max().unwrap_or(0);
    // Both operands are when the rows stand beside the weights of an output.
    Room {
        len: 0,
        largest_operand: weights.max(n * widest),
        second_operand: (n * widest).min(h * i.max(heads).max(qkv).max(2 * i)),
    }
}

/// Sizes of a layer's buffers.
#[derive(Clone, Copy)]
struct BufferSizes {
    /// `N`.
    n: usize,
    /// Of the adapters, group by group.
    low_widths: [usize; 4],
    /// Whether a backward pass follows.
    is_kept: bool,
    /// Of the operands of products.
    format: NumberFormat,
}

impl LayerBuffers {
    fn take(cursor: &mut Cursor, config: &Config, heads: Heads, sizes: BufferSizes) -> LayerBuffers {
        let BufferSizes { n, low_widths, is_kept, format } = sizes;
        let h = config.hidden_size;
        let residual = |cursor: &mut Cursor| is_kept.then(|| cursor.take(n * h));
        LayerBuffers {
            input: residual(cursor),
            input_scale: cursor.take(n),
            qkv: cursor.take_as(n * heads.qkv_width(), format),
            attended: cursor.take_as(n * heads.query_width(), format),
            lse: cursor.take(n * heads.num_heads),
            middle: residual(cursor),
            middle_scale: cursor.take(n),
            gate_up: cursor.take_as(n * 2 * config.intermediate_size, format),
            low: low_widths.map(|width| cursor.take_as(n * width, format)),
        }
    }

    /// Buffers of all layers, each with its own input and low rows of its end, and everything else in common.
    fn take_shared(cursor: &mut Cursor, config: &Config, heads: Heads, sizes: BufferSizes) -> Vec<LayerBuffers> {
        let first = LayerBuffers::take(cursor, config, heads, sizes);
        let mut layers = vec![first];
        for _ in 1..config.num_layers {
            let input = Some(cursor.take(sizes.n * config.hidden_size));
            // The end of a layer is not computed again, so its low rows are kept.
            let [qkv, out, gate_up, _] = layers[0].low;
            let low = [qkv, out, gate_up, cursor.take_as(sizes.n * sizes.low_widths[3], sizes.format)];
            layers.push(LayerBuffers { input, low, ..layers[0] });
        }
        layers
    }
}

impl Scratch {
    fn take(
        cursor: &mut Cursor,
        config: &Config,
        (heads, format): (Heads, NumberFormat),
        (n, head_rows): (usize, usize),
        purpose: Purpose,
    ) -> Scratch {
        let h = config.hidden_size;
        let for_training = |len: usize| if purpose == Purpose::Train { len } else { 0 };
        Scratch {
            hidden: cursor.take(n * h),
            normed: cursor.take_as(n * h, format),
            rotated: cursor.take_as(n * heads.rotated_width(), format),
            head_scale: cursor.take(n * (heads.num_heads + heads.num_kv_heads)),
            active: cursor.take_as(n * config.intermediate_size, format),
            again: Span::default(),
            picked: cursor.take(n * h),
            final_scale: cursor.take(n),
            logits: cursor.take_as(head_rows * config.vocab_size, format),
            losses: cursor.take(n),
            correct: cursor.take(n),
            workspace: Span::default(),
            dnormed: cursor.take_as(for_training(n * h), format),
            dpicked: cursor.take(for_training(n * h)),
            dattended: cursor.take_as(for_training(n * heads.query_width()), format),
            dqkv: cursor.take_as(for_training(n * heads.qkv_width()), format),
        }
    }
}
