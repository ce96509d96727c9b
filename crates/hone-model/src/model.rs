//! The decoder, forward: where everything stands in the arena, and the pass through the layers.
//!
//! One layer: norm, queries/keys/values in one product, rotation, attention, output added to the residual; norm, gate
//! and up in one product, SwiGLU, down added to the residual. What the backward pass cannot cheaply compute again
//! is kept per layer; the rest is shared scratch.

mod adapters;
mod backward;
mod layout;

pub(crate) use adapters::mix;
pub(crate) use layout::{Cursor, LayerWeights, Layout, Purpose, Trained, Training, Weights, product_room};

use crate::batch::Batch;
use crate::config::Config;
use crate::device::{Attention, Device, HeadNorms, Heads, Matrix, Rotation, Span};
use adapters::{Group, GroupRows, Place};
use layout::LayerBuffers;

/// A decoder laid out in a device's arena.
pub(crate) struct Model {
    config: Config,
    pub(crate) layout: Layout,
}

/// A micro-batch as the passes see it.
pub(crate) struct Pass<'a> {
    ids: &'a [u32],
    segments: &'a [usize],
    positions: Vec<u32>,
    /// Rows whose logits are wanted.
    rows: Vec<u32>,
    /// Target of each of `rows`; empty when only logits are wanted.
    targets: Vec<u32>,
    /// Names the masks of dropout; none when the pass does not train.
    dropout_seed: Option<u64>,
}

/// Loss and correctness of each row with a target, in order of tokens.
pub(crate) struct RowResults {
    pub(crate) losses: Vec<f32>,
    pub(crate) correct: Vec<f32>,
}

impl<'a> Pass<'a> {
    /// All rows with a target.
    pub(crate) fn with_targets(batch: &'a Batch) -> Pass<'a> {
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (row, &target) in batch.targets.iter().enumerate() {
            if let Ok(target) = u32::try_from(target) {
                rows.push(row as u32);
                targets.push(target);
            }
        }
        Pass {
            ids: &batch.ids,
            segments: &batch.segments,
            positions: batch.positions(),
            rows,
            targets,
            dropout_seed: None,
        }
    }

    /// The given rows, for their logits.
    pub(crate) fn for_logits(batch: &'a Batch, rows: Vec<u32>) -> Pass<'a> {
        let (positions, targets) = (batch.positions(), Vec::new());
        Pass { ids: &batch.ids, segments: &batch.segments, positions, rows, targets, dropout_seed: None }
    }

    /// The same pass, training: adapters drop inputs, by masks that `seed` names.
    pub(crate) fn with_dropout(self, seed: u64) -> Pass<'a> {
        Pass { dropout_seed: Some(seed), ..self }
    }

    pub(crate) fn num_rows(&self) -> usize {
        self.rows.len()
    }

    fn num_tokens(&self) -> usize {
        self.ids.len()
    }
}

impl Model {
    pub(crate) fn new(config: &Config, layout: Layout) -> Model {
        Model { config: config.clone(), layout }
    }

    fn heads(&self) -> Heads {
        Heads {
            num_heads: self.config.num_heads,
            num_kv_heads: self.config.num_kv_heads,
            head_dim: self.config.head_dim,
        }
    }

    fn weights(&self) -> &Weights {
        &self.layout.weights
    }

    /// Embedding and all layers; `hidden` then holds the residual after the last layer.
    pub(crate) fn forward(&self, device: &mut dyn Device, pass: &Pass<'_>) {
        let hidden = self.layout.scratch.hidden.first(pass.num_tokens() * self.config.hidden_size);
        device.gather_rows(hidden, self.weights().embedding, pass.ids);
        for l in 0..self.config.num_layers {
            let kept = self.layout.kept(l);
            if let Some(input) = kept.input {
                device.copy(input.first(hidden.len), hidden);
            }
            self.layer_until_gate_up(device, pass, l, hidden);
            self.layer_end(device, pass, l, hidden);
        }
    }

    /// A layer up to its gate and up rows: all that the backward pass reads. `hidden` is the residual, before and after.
    fn layer_until_gate_up(&self, device: &mut dyn Device, pass: &Pass<'_>, l: usize, hidden: Span) {
        let (n, h, i) = (pass.num_tokens(), self.config.hidden_size, self.config.intermediate_size);
        let (w, kept, scratch) = (&self.weights().layers[l], self.layout.kept(l), &self.layout.scratch);
        let eps = self.config.norm_eps;
        let normed = scratch.normed.first(n * h);
        device.rms_norm(normed, kept.input_scale.first(n), hidden, w.input_norm, eps);
        let qkv = kept.qkv.first(n * self.heads().qkv_width());
        linear(device, qkv, normed, w.qkv, h, false);
        self.adapt(device, pass, Place { layer: l, group: Group::Qkv }, kept.group(Group::Qkv, normed, qkv));
        if let Some(bias) = w.qkv_bias {
            device.add_bias(qkv, bias);
        }
        self.rotate(device, pass, w, kept);
        let attention = self.attention(pass, kept);
        device.attention(&attention);
        linear(device, hidden, attention.out, w.out, self.heads().query_width(), true);
        self.adapt(device, pass, Place { layer: l, group: Group::Out }, kept.group(Group::Out, attention.out, hidden));
        if let Some(middle) = kept.middle {
            device.copy(middle.first(n * h), hidden);
        }
        device.rms_norm(normed, kept.middle_scale.first(n), hidden, w.middle_norm, eps);
        let gate_up = kept.gate_up.first(n * 2 * i);
        linear(device, gate_up, normed, w.gate_up, h, false);
        self.adapt(device, pass, Place { layer: l, group: Group::GateUp }, kept.group(Group::GateUp, normed, gate_up));
    }

    /// The rest of a layer, added to `hidden`.
    fn layer_end(&self, device: &mut dyn Device, pass: &Pass<'_>, l: usize, hidden: Span) {
        let (n, i) = (pass.num_tokens(), self.config.intermediate_size);
        let (w, kept) = (&self.weights().layers[l], self.layout.kept(l));
        let (gate_up, active) = (kept.gate_up.first(n * 2 * i), self.layout.scratch.active.first(n * i));
        device.swiglu(active, gate_up, i);
        linear(device, hidden, active, w.down, i, true);
        self.adapt(device, pass, Place { layer: l, group: Group::Down }, kept.group(Group::Down, active, hidden));
    }

    /// Logits of the pass's rows, block by block: `work` gets the index of a block's first row and its logits.
    pub(crate) fn logits(
        &self,
        device: &mut dyn Device,
        pass: &Pass<'_>,
        work: &mut dyn FnMut(&mut dyn Device, usize, Span),
    ) {
        self.normed_rows(device, pass);
        for start in (0..pass.num_rows()).step_by(self.layout.head_rows) {
            let count = self.layout.head_rows.min(pass.num_rows() - start);
            let logits = self.logits_block(device, start, count);
            work(device, start, logits);
        }
    }

    /// Losses of the pass's rows, to be read with [`Model::row_results`].
    pub(crate) fn losses(&self, device: &mut dyn Device, pass: &Pass<'_>) {
        let scratch = &self.layout.scratch;
        self.logits(device, pass, &mut |device, start, logits| {
            let targets = &pass.targets[start..start + logits.len / self.config.vocab_size];
            let (losses, correct) =
                (scratch.losses.part(start, targets.len()), scratch.correct.part(start, targets.len()));
            device.cross_entropy(logits, losses, correct, targets, None);
        });
    }

    /// Reads what the last pass left.
    pub(crate) fn row_results(&self, device: &mut dyn Device, pass: &Pass<'_>) -> anyhow::Result<RowResults> {
        let count = pass.num_rows();
        let (mut losses, mut correct) = (vec![0.0; count], vec![0.0; count]);
        device.download(self.layout.scratch.losses.first(count), &mut losses)?;
        device.download(self.layout.scratch.correct.first(count), &mut correct)?;
        device.finish()?;
        Ok(RowResults { losses, correct })
    }

    /// Takes the pass's rows out of `hidden` into `picked` and norms them into `normed`.
    fn normed_rows(&self, device: &mut dyn Device, pass: &Pass<'_>) {
        let (count, h, scratch) = (pass.num_rows(), self.config.hidden_size, &self.layout.scratch);
        let hidden = scratch.hidden.first(pass.num_tokens() * h);
        let picked = scratch.picked.first(count * h);
        device.gather_rows(picked, hidden, &pass.rows);
        let normed = scratch.normed.first(count * h);
        device.rms_norm(
            normed,
            scratch.final_scale.first(count),
            picked,
            self.weights().final_norm,
            self.config.norm_eps,
        );
    }

    fn logits_block(&self, device: &mut dyn Device, start: usize, count: usize) -> Span {
        let h = self.config.hidden_size;
        let logits = self.layout.scratch.logits.first(count * self.config.vocab_size);
        linear(device, logits, self.layout.scratch.normed.part(start * h, count * h), self.weights().head, h, false);
        logits
    }

    fn rotate(&self, device: &mut dyn Device, pass: &Pass<'_>, w: &LayerWeights, kept: &LayerBuffers) {
        let (n, heads, scratch) = (pass.num_tokens(), self.heads(), &self.layout.scratch);
        let rotated = scratch.rotated.first(n * heads.rotated_width());
        let qkv = kept.qkv.first(n * heads.qkv_width());
        device.rotate(rotated, self.head_scale(n), qkv, &self.rotation(pass, w), heads);
    }

    fn head_scale(&self, n: usize) -> Span {
        self.layout.scratch.head_scale.first(n * (self.config.num_heads + self.config.num_kv_heads))
    }

    fn rotation<'p>(&self, pass: &'p Pass<'_>, w: &LayerWeights) -> Rotation<'p> {
        let norms = w.head_norms.map(|(query, key)| HeadNorms { query, key, eps: self.config.norm_eps });
        Rotation { table: self.layout.rope_table, positions: &pass.positions, norms }
    }

    fn attention<'p>(&self, pass: &'p Pass<'_>, kept: &LayerBuffers) -> Attention<'p> {
        let (n, heads) = (pass.num_tokens(), self.heads());
        Attention {
            out: kept.attended.first(n * heads.query_width()),
            lse: kept.lse.first(n * heads.num_heads),
            rotated: self.layout.scratch.rotated.first(n * heads.rotated_width()),
            qkv: kept.qkv.first(n * heads.qkv_width()),
            segments: pass.segments,
            heads,
            workspace: self.layout.scratch.workspace,
        }
    }
}

impl LayerBuffers {
    /// What the adapters of `group` read and write.
    fn group(&self, group: Group, x: Span, y: Span) -> GroupRows {
        GroupRows { x, y, low: self.low[group as usize] }
    }
}

/// y `[N,O]` := x `[N,I]` · w `[O,I]`ᵀ, or += when `accumulate`.
fn linear(device: &mut dyn Device, y: Span, x: Span, w: Span, input: usize, accumulate: bool) {
    let w: Matrix = w.matrix(input);
    device.matmul(y.matrix(w.rows), x.matrix(input), w.transposed(), accumulate);
}
