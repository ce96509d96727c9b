//! Where weights, gradients, kept activations and scratch stand in the arena. Made once, before the first step; its
//! length is the exact use of memory.

use crate::config::{Config, ParameterSpec};
use crate::device::{Device, Heads, Span};
use crate::train::TrainerOptions;
use anyhow::{Result, ensure};

/// Spans begin at multiples of this many numbers (64 bytes).
const ALIGNMENT: usize = 16;
/// Most numbers in a block of logits, but for very large vocabularies.
const LOGITS_BLOCK: usize = 1 << 24;

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
    /// Numbers in all.
    pub(crate) len: usize,
    /// All parameters, one after the other in the order of [`Config::parameters`].
    pub(crate) parameters: Span,
    /// The same parameters, by role.
    pub(crate) weights: Weights,
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

/// What training needs beside the weights, each laid out as the parameters are.
pub(crate) struct Training {
    pub(crate) gradients: Span,
    pub(crate) gradients_by_role: Weights,
    pub(crate) first_moments: Span,
    pub(crate) second_moments: Span,
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
#[derive(Default)]
pub(crate) struct Cursor {
    next: usize,
}

impl Cursor {
    pub(crate) fn take(&mut self, len: usize) -> Span {
        let span = Span { offset: self.next, len };
        self.next = (self.next + len).next_multiple_of(ALIGNMENT);
        span
    }

    /// Numbers handed out, gaps included.
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
        let specs = config.parameters();
        let num_parameters = config.num_parameters();
        let mut cursor = Cursor::default();
        let parameters = cursor.take(num_parameters);
        let training = (purpose == Purpose::Train).then(|| {
            let gradients = cursor.take(num_parameters);
            Training {
                gradients,
                gradients_by_role: Weights::at(gradients, config, &specs),
                first_moments: cursor.take(num_parameters),
                second_moments: cursor.take(num_parameters),
            }
        });
        let rope_table = cursor.take(longest * config.head_dim);
        let num_buffers = if purpose == Purpose::Train { config.num_layers } else { 1 };
        let layers = (0..num_buffers).map(|_| LayerBuffers::take(&mut cursor, config, heads, n, purpose)).collect();
        let head_rows = (LOGITS_BLOCK / config.vocab_size / 64 * 64).clamp(64, 1024).min(n);
        let scratch = Scratch::take(&mut cursor, config, heads, n, head_rows, purpose);
        let workspace = cursor.take(device.attention_workspace(longest, heads));
        let scratch = Scratch { workspace, ..scratch };
        let weights = Weights::at(parameters, config, &specs);
        Ok(Layout { len: cursor.next, parameters, weights, training, rope_table, layers, scratch, head_rows })
    }

    /// Buffers of a layer.
    pub(crate) fn kept(&self, layer: usize) -> &LayerBuffers {
        &self.layers[layer % self.layers.len()]
    }
}

impl Weights {
    /// Roles of parameters (or what is laid out like them) that stand one after the other in `all`.
    pub(crate) fn at(all: Span, config: &Config, specs: &[ParameterSpec]) -> Weights {
        let mut next = 0;
        let mut specs = specs.iter();
        // Takes the parameters whose names end in one of `suffixes`, which must follow each other here.
        let mut take = |suffixes: &[&str]| {
            let start = next;
            for suffix in suffixes {
                let spec = specs.next().expect("every role has its parameter");
                assert!(spec.name.ends_with(suffix), "{} stands where {suffix} is expected", spec.name);
                next += spec.len();
            }
            all.part(start, next - start)
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
        assert_eq!(next, all.len, "every parameter has its role");
        Weights { embedding, layers, final_norm, head }
    }
}

impl LayerBuffers {
    fn take(cursor: &mut Cursor, config: &Config, heads: Heads, n: usize, purpose: Purpose) -> LayerBuffers {
        let h = config.hidden_size;
        let residual = |cursor: &mut Cursor| (purpose == Purpose::Train).then(|| cursor.take(n * h));
        LayerBuffers {
            input: residual(cursor),
            input_scale: cursor.take(n),
            qkv: cursor.take(n * heads.qkv_width()),
            attended: cursor.take(n * heads.query_width()),
            lse: cursor.take(n * heads.num_heads),
            middle: residual(cursor),
            middle_scale: cursor.take(n),
            gate_up: cursor.take(n * 2 * config.intermediate_size),
        }
    }
}

impl Scratch {
    fn take(
        cursor: &mut Cursor,
        config: &Config,
        heads: Heads,
        n: usize,
        head_rows: usize,
        purpose: Purpose,
    ) -> Scratch {
        let h = config.hidden_size;
        let for_training = |len: usize| if purpose == Purpose::Train { len } else { 0 };
        Scratch {
            hidden: cursor.take(n * h),
            normed: cursor.take(n * h),
            rotated: cursor.take(n * heads.rotated_width()),
            head_scale: cursor.take(n * (heads.num_heads + heads.num_kv_heads)),
            active: cursor.take(n * config.intermediate_size),
            picked: cursor.take(n * h),
            final_scale: cursor.take(n),
            logits: cursor.take(head_rows * config.vocab_size),
            losses: cursor.take(n),
            correct: cursor.take(n),
            workspace: Span::default(),
            dnormed: cursor.take(for_training(n * h)),
            dpicked: cursor.take(for_training(n * h)),
            dattended: cursor.take(for_training(n * heads.query_width())),
            dqkv: cursor.take(for_training(n * heads.qkv_width())),
        }
    }
}
