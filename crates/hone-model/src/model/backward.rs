//! The decoder, backward: gradients of the sum of the trained tokens' losses, added to those of earlier micro-batches.

use super::adapters::{Group, Place};
use super::layout::Training;
use super::{Model, Pass};
use crate::device::{Device, HeadNorms, Span};

impl Model {
    /// Losses as [`Model::losses`] leaves them, and gradients times `scale` added up. Reads what the last
    /// [`Model::forward`] of the same pass kept, and uses it up.
    pub(crate) fn losses_and_gradients(&self, device: &mut dyn Device, pass: &Pass<'_>, scale: f32) {
        let training = self.layout.training.as_ref().expect("the layout is one for training");
        let hidden = self.layout.scratch.hidden.first(pass.num_tokens() * self.config.hidden_size);
        self.head(device, pass, training, scale);
        for l in (0..self.config.num_layers).rev() {
            self.compute_again(device, pass, l);
            self.feed_forward_backward(device, pass, l, training);
            self.attention_backward(device, pass, l, training);
        }
        let embedding = training.gradients_by_role.embedding;
        if embedding.len > 0 {
            device.scatter_add_rows(embedding, hidden, pass.ids);
        }
    }

    /// Fills the layer's buffers anew where the layers share them.
    fn compute_again(&self, device: &mut dyn Device, pass: &Pass<'_>, l: usize) {
        let again = self.layout.scratch.again;
        // The buffers of the last layer are still its own.
        if again.len == 0 || l + 1 == self.config.num_layers {
            return;
        }
        let hidden = again.first(pass.num_tokens() * self.config.hidden_size);
        let input = self.layout.kept(l).input.expect("training keeps residuals");
        device.copy(hidden, input.first(hidden.len));
        self.layer_until_gate_up(device, pass, l, hidden);
    }

    /// Final norm, head and loss of the rows with targets; `hidden` becomes the gradient of the last residual.
    fn head(&self, device: &mut dyn Device, pass: &Pass<'_>, training: &Training, scale: f32) {
        let (count, h, v) = (pass.num_rows(), self.config.hidden_size, self.config.vocab_size);
        let (scratch, gradients) = (&self.layout.scratch, &training.gradients_by_role);
        self.logits(device, pass, &mut |device, start, logits| {
            let rows = logits.len / v;
            let targets = &pass.targets[start..start + rows];
            let (losses, correct) = (scratch.losses.part(start, rows), scratch.correct.part(start, rows));
            device.cross_entropy(logits, losses, correct, targets, Some(scale));
            let part = |span: Span| span.part(start * h, rows * h);
            linear_dx(device, part(scratch.dnormed), logits, self.weights().head, h);
            linear_dw(device, gradients.head, logits, part(scratch.normed), h);
        });
        let hidden = scratch.hidden.first(pass.num_tokens() * h);
        let [picked, dpicked, dnormed] =
            [scratch.picked, scratch.dpicked, scratch.dnormed].map(|span| span.first(count * h));
        device.fill(dpicked, 0.0);
        let final_scale = scratch.final_scale.first(count);
        device.rms_norm_backward(
            dpicked,
            training.norm_gradient(gradients.final_norm, h),
            dnormed,
            final_scale,
            picked,
            self.weights().final_norm,
        );
        device.fill(hidden, 0.0);
        device.scatter_add_rows(hidden, dpicked, &pass.rows);
    }

    fn feed_forward_backward(&self, device: &mut dyn Device, pass: &Pass<'_>, l: usize, training: &Training) {
        let (n, h, i) = (pass.num_tokens(), self.config.hidden_size, self.config.intermediate_size);
        let (w, kept, scratch) = (&self.weights().layers[l], self.layout.kept(l), &self.layout.scratch);
        let gradients = &training.gradients_by_role.layers[l];
        let [hidden, normed, dnormed] = [scratch.hidden, scratch.normed, scratch.dnormed].map(|s| s.first(n * h));
        let (gate_up, active) = (kept.gate_up.first(n * 2 * i), scratch.active.first(n * i));
        let middle = kept.middle.expect("training keeps residuals").first(n * h);
        let middle_scale = kept.middle_scale.first(n);
        let [down, up] = [Group::Down, Group::GateUp].map(|group| Place { layer: l, group });
        linear_dx(device, active, hidden, w.down, i);
        self.adapt_backward(device, pass, down, kept.group(Group::Down, active, hidden));
        device.swiglu_backward(active, gate_up, i);
        self.adapt_backward_a(device, pass, down, active);
        linear_dw(device, gradients.down, hidden, active, i);
        device.rms_norm_again(normed, middle_scale, middle, w.middle_norm);
        linear_dw(device, gradients.gate_up, gate_up, normed, h);
        linear_dx(device, dnormed, gate_up, w.gate_up, h);
        self.adapt_backward(device, pass, up, kept.group(Group::GateUp, dnormed, gate_up));
        self.adapt_backward_a(device, pass, up, normed);
        let middle_norm = training.norm_gradient(gradients.middle_norm, h);
        device.rms_norm_backward(hidden, middle_norm, dnormed, middle_scale, middle, w.middle_norm);
    }

    fn attention_backward(&self, device: &mut dyn Device, pass: &Pass<'_>, l: usize, training: &Training) {
        let (n, h, heads) = (pass.num_tokens(), self.config.hidden_size, self.heads());
        let (w, kept, scratch) = (&self.weights().layers[l], self.layout.kept(l), &self.layout.scratch);
        let gradients = &training.gradients_by_role.layers[l];
        let [hidden, normed, dnormed] = [scratch.hidden, scratch.normed, scratch.dnormed].map(|s| s.first(n * h));
        let dattended = scratch.dattended.first(n * heads.query_width());
        let dqkv = scratch.dqkv.first(n * heads.qkv_width());
        let input = kept.input.expect("training keeps residuals").first(n * h);
        let input_scale = kept.input_scale.first(n);
        let [out, qkv] = [Group::Out, Group::Qkv].map(|group| Place { layer: l, group });
        let attention = self.attention(pass, kept);
        linear_dw(device, gradients.out, hidden, attention.out, heads.query_width());
        linear_dx(device, dattended, hidden, w.out, heads.query_width());
        self.adapt_backward(device, pass, out, kept.group(Group::Out, dattended, hidden));
        self.adapt_backward_a(device, pass, out, attention.out);
        self.rotate(device, pass, w, kept);
        device.attention_backward(dqkv, dattended, &attention);
        let dnorms = training.head_norm_gradients(gradients.head_norms, h, self.config.norm_eps);
        let scale = self.head_scale(n);
        device.rotate_backward(dqkv, dnorms, scale, attention.qkv, &self.rotation(pass, w), heads);
        if let Some(bias) = gradients.qkv_bias.filter(|bias| bias.len > 0) {
            device.add_bias_backward(bias, dqkv);
        }
        device.rms_norm_again(normed, input_scale, input, w.input_norm);
        linear_dw(device, gradients.qkv, dqkv, normed, h);
        linear_dx(device, dnormed, dqkv, w.qkv, h);
        self.adapt_backward(device, pass, qkv, kept.group(Group::Qkv, dnormed, dqkv));
        self.adapt_backward_a(device, pass, qkv, normed);
        let input_norm = training.norm_gradient(gradients.input_norm, h);
        device.rms_norm_backward(hidden, input_norm, dnormed, input_scale, input, w.input_norm);
    }
}

impl Training {
    /// Where the gradient of a norm over `H` goes: its own place, or the one that nobody reads when it is frozen.
    fn norm_gradient(&self, own: Span, hidden_size: usize) -> Span {
        if own.len > 0 { own } else { self.discarded.first(hidden_size) }
    }

    /// As [`Training::norm_gradient`], for the norms of query and key heads.
    fn head_norm_gradients(&self, own: Option<(Span, Span)>, hidden_size: usize, eps: f32) -> Option<HeadNorms> {
        let (query, key) = own?;
        let d = (self.discarded.len - hidden_size) / 2;
        let place = |own: Span, start: usize| if own.len > 0 { own } else { self.discarded.part(start, d) };
        Some(HeadNorms { query: place(query, hidden_size), key: place(key, hidden_size + d), eps })
    }
}

/// dx `[N,I]` := dy `[N,O]` · w `[O,I]`.
fn linear_dx(device: &mut dyn Device, dx: Span, dy: Span, w: Span, input: usize) {
    let w = w.matrix(input);
    device.matmul(dx.matrix(input), dy.matrix(w.rows), w, false);
}

/// dw `[O,I]` += dy `[N,O]`ᵀ · x `[N,I]`; nothing where dw is empty, because the weight is frozen.
fn linear_dw(device: &mut dyn Device, dw: Span, dy: Span, x: Span, input: usize) {
    if dw.len == 0 {
        return;
    }
    let dw = dw.matrix(input);
    device.matmul(dw, dy.matrix(dw.rows).transposed(), x.matrix(input), true);
}
