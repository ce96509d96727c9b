//! What a trainer holds, out of it and back into it: weights, adapters, gradients, what AdamW remembers. Large things are
//! written tensor by tensor, so that saving takes no second copy of the model.

use super::{OptimizerState, Trainer, upload_tensors};
use crate::config::ParameterSpec;
use crate::device::Span;
use crate::lora::Adapter;
use crate::model::Training;
use crate::weights::{Dtype, HostWeights, each_tensor, write_tensors};
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::path::Path;

/// What [`Trainer::write`] writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// These of [`crate::Config::parameters`], adapters merged into them: what a forward pass without adapters needs.
    Weights(Vec<usize>),
    /// All parameters without the adapters: the f32 masters of a full run, the frozen model under an adapter.
    Base,
    /// AdamW's first moments of what is trained.
    FirstMoments,
    /// AdamW's second moments of what is trained.
    SecondMoments,
}

impl Trainer {
    /// Writes one safetensors file in `dtype`.
    ///
    /// # Errors
    /// A number that is not finite, by the tensor's name; a fault of the device; what `out` answers.
    pub fn write(&mut self, what: &Stored, dtype: Dtype, out: &mut dyn Write) -> Result<()> {
        let (tensors, adapter) = match what {
            Stored::Weights(indices) => {
                let spans = self.parameter_spans();
                (indices.iter().map(|i| spans[*i].clone()).collect(), self.adapter()?)
            }
            Stored::Base => (self.parameter_spans(), None),
            Stored::FirstMoments => (self.trained_spans(self.training().first_moments), None),
            Stored::SecondMoments => (self.trained_spans(self.training().second_moments), None),
        };
        let specs: Vec<ParameterSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
        let mut values = |index: usize| {
            let (spec, span): &(ParameterSpec, Span) = &tensors[index];
            let mut values = vec![0.0; span.len];
            self.device.download(*span, &mut values)?;
            if let Some(adapter) = &adapter {
                adapter.merge_tensor(&self.config, &spec.name, &mut values);
            }
            ensure!(values.iter().all(|x| x.is_finite()), "`{}` holds a number that is not finite", spec.name);
            Ok(values.into())
        };
        write_tensors(&specs, dtype, &mut values, out)
    }

    /// The weights as they are now (f32 masters), adapters merged into them; `dtype` is the one of the weights that were
    /// loaded.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn weights(&mut self) -> Result<HostWeights> {
        let spans = self.parameter_spans();
        let mut weights = HostWeights { tensors: self.read_tensors(&spans)?, dtype: self.dtype };
        if let Some(adapter) = self.adapter()? {
            adapter.merge_into(&self.config, &mut weights);
        }
        Ok(weights)
    }

    /// The adapter as it is now; none when the model itself is trained.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn adapter(&mut self) -> Result<Option<Adapter>> {
        let Some(lora) = self.options.method.lora.clone() else { return Ok(None) };
        let specs = lora.parameters(&self.config);
        let spans = one_after_the_other(specs, self.model.layout.adapter_values);
        Ok(Some(Adapter { lora, tensors: self.read_tensors(&spans)? }))
    }

    /// Puts an adapter of the same rank and targets into place.
    ///
    /// # Errors
    /// An adapter of another shape, by count or name; a trainer without adapters.
    pub fn load_adapter(&mut self, adapter: &Adapter) -> Result<()> {
        let lora = self.options.method.lora.as_ref().context("load an adapter into a trainer without adapters")?;
        let specs = lora.parameters(&self.config);
        upload_tensors(&mut *self.device, &specs, &adapter.tensors, self.model.layout.adapter_values)
            .context("load the adapter")
    }

    /// The gradients as they are now, of what is trained.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn gradients(&mut self) -> Result<Vec<(String, Vec<f32>)>> {
        let spans = self.trained_spans(self.training().gradients);
        self.read_tensors(&spans)
    }

    /// What is trained, as it is now: parameters of the model, or matrices of the adapters.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn trained(&mut self) -> Result<Vec<(String, Vec<f32>)>> {
        let spans: Vec<_> = self.training().tensors.iter().map(|t| (t.spec.clone(), t.values)).collect();
        self.read_tensors(&spans)
    }

    /// Whether training changes a parameter of the model: it is trained itself, or an adapter is merged into it.
    #[must_use]
    pub fn changes(&self, parameter: &str) -> bool {
        match &self.options.method.lora {
            Some(lora) => lora.adapts(&self.config, parameter).is_some(),
            None => self.training().tensors.iter().any(|tensor| tensor.spec.name == parameter),
        }
    }

    /// How many tensors are trained.
    pub fn num_trained_tensors(&self) -> usize {
        self.training().tensors.len()
    }

    /// What AdamW remembers.
    ///
    /// # Errors
    /// A fault of the device.
    pub fn optimizer_state(&mut self) -> Result<OptimizerState> {
        let m = self.trained_spans(self.training().first_moments);
        let v = self.trained_spans(self.training().second_moments);
        Ok(OptimizerState { step: self.step, m: self.read_tensors(&m)?, v: self.read_tensors(&v)? })
    }

    /// Puts back what [`Trainer::optimizer_state`] gave.
    ///
    /// # Errors
    /// Tensors that are not those that are trained, by count or name.
    pub fn load_optimizer_state(&mut self, state: &OptimizerState) -> Result<()> {
        self.put_moments(&state.m, Stored::FirstMoments)?;
        self.put_moments(&state.v, Stored::SecondMoments)?;
        self.step = state.step;
        Ok(())
    }

    /// As [`Trainer::load_optimizer_state`], from the two files that [`Trainer::write`] wrote; one is held at a time.
    ///
    /// # Errors
    /// A broken file; tensors that are not those that are trained, by count or name.
    pub fn load_moments(&mut self, first: &Path, second: &Path, step: u64) -> Result<()> {
        let Training { first_moments, second_moments, .. } = *self.training();
        for (path, all) in [(first, first_moments), (second, second_moments)] {
            let spans = self.trained_spans(all);
            let mut num_found = 0;
            let mut put = |name: &str, values: Vec<f32>| -> Result<()> {
                let found = spans.iter().find(|(spec, _)| spec.name == name);
                let (spec, span) = found.with_context(|| format!("tensor `{name}` is not one that is trained"))?;
                ensure!(values.len() == span.len, "tensor `{}` has {} numbers", spec.name, values.len());
                num_found += 1;
                self.device.upload(*span, &values)
            };
            each_tensor(path, &mut put).with_context(|| format!("use {}", path.display()))?;
            let count = spans.len();
            ensure!(num_found == count, "{} holds {num_found} tensors, {count} are trained", path.display());
        }
        self.step = step;
        Ok(())
    }

    fn put_moments(&mut self, tensors: &[(String, Vec<f32>)], what: Stored) -> Result<()> {
        let (all, name) = match what {
            Stored::FirstMoments => (self.training().first_moments, "load first moments"),
            _ => (self.training().second_moments, "load second moments"),
        };
        check_names(self.training().tensors.iter().map(|t| &t.spec), tensors).context(name)?;
        for ((_, span), (_, values)) in self.trained_spans(all).into_iter().zip(tensors) {
            self.device.upload(span, values)?;
        }
        Ok(())
    }

    /// Every parameter of the model and its place.
    fn parameter_spans(&self) -> Vec<(ParameterSpec, Span)> {
        one_after_the_other(self.config.parameters(), self.model.layout.parameters)
    }

    /// Every trained tensor and its place in `all`, which is laid out as the gradients are.
    fn trained_spans(&self, all: Span) -> Vec<(ParameterSpec, Span)> {
        let place = |t: &crate::model::Trained| (t.spec.clone(), all.part(t.start, t.spec.len()));
        self.training().tensors.iter().map(place).collect()
    }

    fn read_tensors(&mut self, spans: &[(ParameterSpec, Span)]) -> Result<Vec<(String, Vec<f32>)>> {
        let mut tensors = Vec::with_capacity(spans.len());
        for (spec, span) in spans {
            let mut values = vec![0.0; span.len];
            self.device.download(*span, &mut values)?;
            tensors.push((spec.name.clone(), values));
        }
        Ok(tensors)
    }
}

fn one_after_the_other(specs: Vec<ParameterSpec>, all: Span) -> Vec<(ParameterSpec, Span)> {
    let mut start = 0;
    let mut place = |spec: ParameterSpec| {
        let span = all.part(start, spec.len());
        start += spec.len();
        (spec, span)
    };
    specs.into_iter().map(&mut place).collect()
}

/// Refuses tensors that are not exactly `specs`, in their order.
pub(crate) fn check_names<'a>(
    specs: impl ExactSizeIterator<Item = &'a ParameterSpec>,
    tensors: &[(String, Vec<f32>)],
) -> Result<()> {
    let count = specs.len();
    ensure!(tensors.len() == count, "{} tensors given, expected {count}", tensors.len());
    for (spec, (name, values)) in specs.zip(tensors) {
        ensure!(spec.name == *name, "tensor `{name}` stands where `{}` is expected", spec.name);
        ensure!(values.len() == spec.len(), "tensor `{name}` has {} numbers, expected {}", values.len(), spec.len());
    }
    Ok(())
}
