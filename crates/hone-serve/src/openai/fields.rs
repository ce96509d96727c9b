//! Typed reading of a JSON object, field by field. A `null` counts as absent, as OpenAI's own server has it;
//! a wrong type or a value out of range is an error that names the field.

use crate::error::ApiError;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// A request body.
pub struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The value of a field that is there and not `null`.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.get(name).map(|value| value.as_str().ok_or_else(|| wrong_type(name, "a string", value))).transpose()
    }

    /// True or false.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.get(name).map(|value| value.as_bool().ok_or_else(|| wrong_type(name, "a boolean", value))).transpose()
    }

    /// An object.
    pub fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        self.get(name).map(|value| value.as_object().ok_or_else(|| wrong_type(name, "an object", value))).transpose()
    }

    /// A list.
    pub fn list(&self, name: &str) -> Result<Option<&'a Vec<Value>>, ApiError> {
        self.get(name).map(|value| value.as_array().ok_or_else(|| wrong_type(name, "a list", value))).transpose()
    }

    /// A number within bounds; one above 0 stays above 0, however small.
    pub fn number(&self, name: &str, allowed: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| wrong_type(name, "a number", value))?;
        if allowed.contains(&number) {
            return Ok(Some(if number > 0.0 { (number as f32).max(f32::MIN_POSITIVE) } else { number as f32 }));
        }
        Err(out_of_range(name, allowed.start(), allowed.end(), value))
    }

    /// A whole number within bounds, as [`whole_number`] reads it.
    pub fn integer(&self, name: &str, allowed: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        if !is_whole(value) {
            return Err(wrong_type(name, "an integer", value));
        }
        match whole_number(value).filter(|number| allowed.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(out_of_range(name, allowed.start(), allowed.end(), value)),
        }
    }

    /// A count within bounds.
    pub fn count(&self, name: &str, allowed: RangeInclusive<usize>) -> Result<Option<usize>, ApiError> {
        let allowed = (*allowed.start() as i64)..=(i64::try_from(*allowed.end()).unwrap_or(i64::MAX));
        Ok(self.integer(name, allowed)?.map(|number| number as usize))
    }
}

/// A whole number of 64 bits. `16.0` is one, as JSON Schema and OpenAI's own server have it.
pub fn whole_number(value: &Value) -> Option<i64> {
    // 2^63 itself has no place in 64 bits with a sign.
    let fits = |number: &f64| (-(2f64.powi(63))..2f64.powi(63)).contains(number);
    let from_fraction = || value.as_f64().filter(|number| is_whole(value) && fits(number)).map(|number| number as i64);
    value.as_i64().or_else(from_fraction)
}

fn is_whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// The error about a value of another type.
pub fn wrong_type(param: &str, expected: &str, value: &Value) -> ApiError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) if is_whole(value) => "an integer",
        Value::Number(_) => "a number with a fraction",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let error = ApiError::invalid(param, format!("`{param}` must be {expected}, not {found}"));
    ApiError { code: Some("invalid_type"), ..error }
}

fn out_of_range<T: std::fmt::Display>(param: &str, low: &T, high: &T, given: &Value) -> ApiError {
    ApiError::invalid(param, format!("`{param}` must be from {low} to {high}, not {given}"))
}
