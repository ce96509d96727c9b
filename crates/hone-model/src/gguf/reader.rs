//! The container: header, typed metadata, table of tensors, and the bytes of one tensor. Knows nothing of models.
//!
//! Layout, all little endian: `GGUF`, u32 version, u64 number of tensors, u64 number of keys; then for each key its name
//! (u64 length, UTF-8), u32 type, value; then for each tensor its name, u32 number of dimensions, u64 each (innermost first),
//! u32 storage type, u64 offset into the data; then padding up to `general.alignment` (32), and the data.

use super::dequantise::Storage;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};

/// Arrays inside arrays beyond this depth are refused.
const MAX_DEPTH: usize = 4;
/// Dimensions of one tensor.
const MAX_DIMENSIONS: u32 = 4;

/// What a file is read from.
pub(super) trait Input: Read + Seek {}
impl<T: Read + Seek> Input for T {}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Any of the integer types.
    Integer(i128),
    /// f32 or f64.
    Float(f64),
    Bool(bool),
    String(String),
    Array(Vec<Value>),
}

/// The keys and values of a file.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    values: HashMap<String, Value>,
}

/// An entry of the table of tensors.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    pub name: String,
    /// Outermost first, as everywhere else in this crate (the file has them innermost first).
    pub shape: Vec<usize>,
    pub storage: Storage,
    /// Bytes stored.
    pub size_bytes: u64,
    /// From the start of the file.
    offset: u64,
}

/// A file whose header is read and whose tensors are known to lie inside it.
pub(super) struct GgufFile<'a> {
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    input: &'a mut dyn Input,
}

impl<'a> GgufFile<'a> {
    /// Reads and checks everything but the data.
    pub fn read(input: &'a mut dyn Input, len: u64) -> Result<GgufFile<'a>> {
        let mut source = Source { input, offset: 0, len };
        ensure!(
            source.bytes::<4>("the magic bytes")? == *b"GGUF",
            "this is no GGUF file: its first bytes are not `GGUF`"
        );
        let version = source.u32("the version")?;
        ensure!(!matches!(version.swap_bytes(), 1..=3), "the file is big endian, only little endian is read");
        ensure!(matches!(version, 2 | 3), "version {version} is not supported, only 2 and 3 are");
        let num_tensors = source.u64("the number of tensors")?;
        let num_keys = source.u64("the number of metadata keys")?;
        // Name length, type and one byte of value; name length, dimensions, type and offset.
        source.expect_room(num_keys, 13, "metadata keys")?;
        let mut metadata = Metadata::default();
        for index in 0..num_keys {
            let key = source.string().with_context(|| format!("name of metadata key number {index}"))?;
            let value = source.value_of_type().with_context(|| format!("metadata key `{key}`"))?;
            ensure!(!metadata.values.contains_key(&key), "metadata key `{key}` stands twice");
            metadata.values.insert(key, value);
        }
        source.expect_room(num_tensors, 24, "tensors")?;
        let mut tensors = Vec::with_capacity(num_tensors as usize);
        for index in 0..num_tensors {
            let name = source.string().with_context(|| format!("name of tensor number {index}"))?;
            tensors.push(source.tensor_info(&name).with_context(|| format!("tensor `{name}`"))?);
        }
        place_tensors(&mut tensors, &metadata, source.offset, len)?;
        Ok(GgufFile { metadata, tensors, input: source.input })
    }

    /// The numbers of one tensor.
    pub fn load(&mut self, tensor: &TensorInfo) -> Result<Vec<f32>> {
        let mut read = || -> Result<Vec<f32>> {
            self.input.seek(SeekFrom::Start(tensor.offset))?;
            // The size was held against the size of the file when the table was read.
            let mut bytes = vec![0; tensor.size_bytes as usize];
            self.input.read_exact(&mut bytes)?;
            let values = tensor.storage.dequantise(&bytes);
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                bail!("it holds {} at index {at}", values[at]);
            }
            Ok(values)
        };
        read().with_context(|| format!("read tensor `{}`", tensor.name))
    }
}

impl TensorInfo {
    /// Numbers in it.
    fn num_values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Turns offsets into the data into offsets into the file, and checks that tensors lie inside it, apart from each other:
/// so the numbers of all tensors together are bounded by the size of the file.
fn place_tensors(tensors: &mut [TensorInfo], metadata: &Metadata, header_end: u64, len: u64) -> Result<()> {
    let alignment = metadata.optional_size("general.alignment")?.unwrap_or(32) as u64;
    ensure!(alignment.is_power_of_two(), "`general.alignment` = {alignment} is not a power of two");
    let start = header_end.checked_next_multiple_of(alignment).context("`general.alignment` is too large")?;
    let mut names = HashSet::new();
    for tensor in tensors.iter_mut() {
        let name = &tensor.name;
        ensure!(names.insert(name.clone()), "tensor `{name}` stands twice");
        ensure!(
            tensor.offset.is_multiple_of(alignment),
            "tensor `{name}` starts at {}, which is no multiple of {alignment}",
            tensor.offset
        );
        let end = start.checked_add(tensor.offset).and_then(|offset| offset.checked_add(tensor.size_bytes));
        ensure!(
            end.is_some_and(|end| end <= len),
            "tensor `{name}` needs {} bytes from byte {start} + {} on, the file has {len}: is it cut short?",
            tensor.size_bytes,
            tensor.offset
        );
        tensor.offset += start;
    }
    let mut sorted: Vec<&TensorInfo> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| tensor.offset);
    for pair in sorted.windows(2) {
        let end = pair[0].offset + pair[0].size_bytes;
        ensure!(end <= pair[1].offset, "tensors `{}` and `{}` overlap", pair[0].name, pair[1].name);
    }
    Ok(())
}

impl Metadata {
    /// The value of a key, of any type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A string.
    pub fn optional_string(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => bail!("metadata key `{key}` is not a string"),
        }
    }

    /// A string that must be there.
    pub fn string(&self, key: &str) -> Result<&str> {
        self.optional_string(key)?.with_context(|| format!("metadata key `{key}` is absent"))
    }

    /// A whole number from 0 on.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(n)) => match u32::try_from(*n) {
                Ok(n) => Ok(Some(n as usize)),
                Err(_) => bail!("metadata key `{key}` = {n} is out of range"),
            },
            Some(_) => bail!("metadata key `{key}` is not a whole number"),
        }
    }

    /// A whole number that must be there.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.with_context(|| format!("metadata key `{key}` is absent"))
    }

    /// A number.
    pub fn optional_float(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(_) => bail!("metadata key `{key}` is not a finite floating-point number"),
        }
    }

    /// A flag; absent is false.
    pub fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => bail!("metadata key `{key}` is not true or false"),
        }
    }

    /// An array of strings that must be there.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>> {
        let strings = self.array(key)?.iter().map(|value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        });
        strings.collect::<Option<_>>().with_context(|| format!("metadata key `{key}` is not an array of strings"))
    }

    /// An array of whole numbers that must be there.
    pub fn integers(&self, key: &str) -> Result<Vec<i128>> {
        let integers = self.array(key)?.iter().map(|value| match value {
            Value::Integer(n) => Some(*n),
            _ => None,
        });
        integers
            .collect::<Option<_>>()
            .with_context(|| format!("metadata key `{key}` is not an array of whole numbers"))
    }

    fn array(&self, key: &str) -> Result<&[Value]> {
        match self.get(key) {
            None => bail!("metadata key `{key}` is absent"),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => bail!("metadata key `{key}` is not an array"),
        }
    }
}

/// The unread part of the header.
struct Source<'a> {
    input: &'a mut dyn Input,
    offset: u64,
    len: u64,
}

impl Source<'_> {
    /// Fails unless `count` things of at least `size_bytes` each can still follow.
    fn expect_room(&self, count: u64, size_bytes: u64, what: &str) -> Result<()> {
        let left = self.len - self.offset;
        ensure!(
            count.checked_mul(size_bytes).is_some_and(|needed| needed <= left),
            "{count} {what} cannot stand in the {left} bytes after byte {}",
            self.offset
        );
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<()> {
        let (offset, needed, left) = (self.offset, buffer.len() as u64, self.len - self.offset);
        ensure!(needed <= left, "the file ends within {what}: {needed} bytes needed at byte {offset}, {left} left");
        self.input.read_exact(buffer).with_context(|| format!("read {what} at byte {offset}"))?;
        self.offset += needed;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut buffer = [0; N];
        self.fill(&mut buffer, what)?;
        Ok(buffer)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    fn string(&mut self) -> Result<String> {
        let len = self.u64("the length of a string")?;
        self.expect_room(len, 1, "bytes of a string")?;
        let offset = self.offset;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes, "a string")?;
        String::from_utf8(bytes).with_context(|| format!("the string at byte {offset} is not UTF-8"))
    }

    fn value_of_type(&mut self) -> Result<Value> {
        let kind = self.u32("the type of a value")?;
        self.value(kind, 0)
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        const WHAT: &str = "a value";
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.bytes(WHAT)?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.bytes(WHAT)?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.bytes(WHAT)?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.bytes(WHAT)?).into()),
            4 => Value::Integer(u32::from_le_bytes(self.bytes(WHAT)?).into()),
            5 => Value::Integer(i32::from_le_bytes(self.bytes(WHAT)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes(WHAT)?).into()),
            7 => match self.bytes(WHAT)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => bail!("the flag before byte {} is {other}, not 0 or 1", self.offset),
            },
            8 => Value::String(self.string()?),
            9 => self.array(depth)?,
            10 => Value::Integer(u64::from_le_bytes(self.bytes(WHAT)?).into()),
            11 => Value::Integer(i64::from_le_bytes(self.bytes(WHAT)?).into()),
            12 => Value::Float(f64::from_le_bytes(self.bytes(WHAT)?)),
            other => bail!("unknown type of value {other} before byte {}", self.offset),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Value> {
        ensure!(depth < MAX_DEPTH, "arrays are nested more than {MAX_DEPTH} deep at byte {}", self.offset);
        let kind = self.u32("the type of an array")?;
        let len = self.u64("the length of an array")?;
        // The fewest bytes that one element can take: one for flags and small numbers, the length before strings, type and
        // length before arrays.
        let least = match kind {
            8 => 8,
            9 => 12,
            10..=12 => 8,
            4..=6 => 4,
            2 | 3 => 2,
            _ => 1,
        };
        self.expect_room(len, least, "elements of an array")?;
        // Not reserved at once: an element in memory is larger than in the file.
        let mut values = Vec::new();
        for _ in 0..len {
            values.push(self.value(kind, depth + 1)?);
        }
        Ok(Value::Array(values))
    }

    fn tensor_info(&mut self, name: &str) -> Result<TensorInfo> {
        let num_dimensions = self.u32("the number of dimensions")?;
        ensure!(
            (1..=MAX_DIMENSIONS).contains(&num_dimensions),
            "it has {num_dimensions} dimensions, not 1 to {MAX_DIMENSIONS}"
        );
        let mut shape = Vec::new();
        for _ in 0..num_dimensions {
            let size = self.u64("a dimension")?;
            ensure!((1..=u64::from(u32::MAX)).contains(&size), "a dimension is {size}");
            shape.push(size as usize);
        }
        shape.reverse();
        let storage = Storage::from_code(self.u32("the storage type")?)?;
        let offset = self.u64("the offset")?;
        let num_values = shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
        let row = *shape.last().expect("there is at least one dimension");
        let (block_len, block_bytes) = storage.block();
        ensure!(
            row.is_multiple_of(block_len),
            "rows of {row} numbers cannot be stored as {} (blocks of {block_len})",
            storage.name()
        );
        let size_bytes = num_values.and_then(|n| (n / block_len as u64).checked_mul(block_bytes as u64));
        // Held against the size of the file by `place_tensors`.
        let size_bytes = size_bytes.with_context(|| format!("its shape {shape:?} is too large"))?;
        let tensor = TensorInfo { name: name.to_owned(), shape, storage, size_bytes, offset };
        debug_assert!(tensor.num_values() > 0);
        Ok(tensor)
    }
}
