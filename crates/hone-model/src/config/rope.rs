//! Rotary position embedding: which frequencies, and the table of cosines and sines.
//!
//! Read from `rope_parameters` (newer files) or `rope_theta` with `rope_scaling` (older ones). The types `default`,
//! `linear`, `llama3` and `yarn` are computed as `transformers` computes them; others are refused.

use super::{ConfigError, Object, boolean, invalid, positive, unsupported};
use serde_json::Value;
use std::f64::consts::PI;

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// How frequencies are stretched for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All by one factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Long wave lengths by the factor, short ones not, smoothly between (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Bound of the long wave lengths.
        low_freq_factor: f64,
        /// Bound of the short wave lengths.
        high_freq_factor: f64,
        /// Positions before stretching.
        original_max_positions: f64,
    },
    /// A ramp between stretched and unstretched frequencies, and a factor on cosines and sines.
    Yarn {
        /// The factor.
        factor: f64,
        /// Rotations at the unstretched end of the ramp.
        beta_fast: f64,
        /// Rotations at the stretched end.
        beta_slow: f64,
        /// Whether the ramp's ends are rounded outwards to whole numbers.
        truncate: bool,
        /// Positions before stretching.
        original_max_positions: f64,
        /// Cosines and sines are multiplied by this.
        attention_factor: f64,
    },
}

impl Rope {
    pub(super) fn from_config(config: &Object, max_positions: usize) -> Result<Rope, ConfigError> {
        let object_at = |key: &str| match config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(invalid(key, "is not an object")),
        };
        let (group, parameters) = match object_at("rope_parameters")? {
            Some(object) => ("rope_parameters", Some(object)),
            None => ("rope_scaling", object_at("rope_scaling")?),
        };
        let at_top = positive(config, "rope_theta")?;
        let Some(parameters) = parameters else {
            return Ok(Rope { theta: at_top.unwrap_or(10_000.0), scaling: RopeScaling::Default });
        };
        let inside = in_group(group, positive(parameters, "rope_theta"))?;
        let theta = inside.or(at_top).unwrap_or(10_000.0);
        let partial = in_group(group, positive(parameters, "partial_rotary_factor"))?;
        if partial.is_some_and(|factor| factor != 1.0) {
            let key = format!("{group}.partial_rotary_factor");
            return Err(unsupported(&key, &parameters["partial_rotary_factor"], "must be absent or 1"));
        }
        let scaling = scaling(group, parameters, config, max_positions)?;
        Ok(Rope { theta, scaling })
    }

    /// Frequencies of the `head_dim / 2` pairs, and the factor on cosines and sines.
    pub fn frequencies(&self, head_dim: usize) -> (Vec<f64>, f64) {
        let plain: Vec<f64> = (0..head_dim / 2).map(|j| self.theta.powf(-((2 * j) as f64) / head_dim as f64)).collect();
        match self.scaling {
            RopeScaling::Default => (plain, 1.0),
            RopeScaling::Linear { factor } => (plain.iter().map(|f| f / factor).collect(), 1.0),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let stretch = |f: f64| {
                    let wave_length = 2.0 * PI / f;
                    if wave_length < original_max_positions / high_freq_factor {
                        f
                    } else if wave_length > original_max_positions / low_freq_factor {
                        f / factor
                    } else {
                        let smooth = (original_max_positions / wave_length - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                (plain.into_iter().map(stretch).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_max_positions, attention_factor } => {
                let dim = head_dim as f64;
                let pair_with = |rotations: f64| {
                    dim * (original_max_positions / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (pair_with(beta_fast), pair_with(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                let stretch = |(j, f): (usize, f64)| {
                    let ramp = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                };
                (plain.into_iter().enumerate().map(stretch).collect(), attention_factor)
            }
        }
    }

    /// Cosines then sines of positions `0..positions`: row-major `[positions, head_dim/2 + head_dim/2]`.
    pub fn table(&self, positions: usize, head_dim: usize) -> Vec<f32> {
        let (frequencies, factor) = self.frequencies(head_dim);
        let mut table = Vec::with_capacity(positions * head_dim);
        for position in 0..positions {
            let angle = |f: &f64| position as f64 * f;
            table.extend(frequencies.iter().map(|f| (angle(f).cos() * factor) as f32));
            table.extend(frequencies.iter().map(|f| (angle(f).sin() * factor) as f32));
        }
        table
    }
}

fn scaling(
    group: &str,
    parameters: &Object,
    config: &Object,
    max_positions: usize,
) -> Result<RopeScaling, ConfigError> {
    let number = |key: &str| in_group(group, positive(parameters, key));
    let required = |key: &str| number(key)?.ok_or_else(|| ConfigError::Missing { key: format!("{group}.{key}") });
    let original_max_positions = || -> Result<f64, ConfigError> {
        let at_top = positive(config, "original_max_position_embeddings")?;
        Ok(at_top.or(number("original_max_position_embeddings")?).unwrap_or(max_positions as f64))
    };
    let kind_key = if parameters.contains_key("rope_type") { "rope_type" } else { "type" };
    let kind = match parameters.get(kind_key) {
        None | Some(Value::Null) => "default",
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(invalid(&format!("{group}.{kind_key}"), "is not a string")),
    };
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: required("factor")? }),
        "llama3" => {
            let (low_freq_factor, high_freq_factor) = (required("low_freq_factor")?, required("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                return Err(invalid(&format!("{group}.high_freq_factor"), "is not above low_freq_factor"));
            }
            let factor = required("factor")?;
            let original_max_positions = original_max_positions()?;
            Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions })
        }
        "yarn" => {
            let original_max_positions = original_max_positions()?;
            let factor = number("factor")?.unwrap_or(max_positions as f64 / original_max_positions);
            let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
            let attention_factor = match (number("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
                (Some(given), _, _) => given,
                (None, Some(scale), Some(all)) => magnitude(scale) / magnitude(all),
                (None, _, _) => magnitude(1.0),
            };
            Ok(RopeScaling::Yarn {
                factor,
                beta_fast: number("beta_fast")?.unwrap_or(32.0),
                beta_slow: number("beta_slow")?.unwrap_or(1.0),
                truncate: in_group(group, boolean(parameters, "truncate"))?.unwrap_or(true),
                original_max_positions,
                attention_factor,
            })
        }
        _ => Err(unsupported(
            &format!("{group}.{kind_key}"),
            &parameters[kind_key],
            "known: default, linear, llama3, yarn",
        )),
    }
}

/// Puts the group's name before the key of an error.
fn in_group<T>(group: &str, result: Result<T, ConfigError>) -> Result<T, ConfigError> {
    result.map_err(|e| match e {
        ConfigError::Invalid { key, reason } => ConfigError::Invalid { key: format!("{group}.{key}"), reason },
        other => other,
    })
}
