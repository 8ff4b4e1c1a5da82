//! A walk over Thrift's compact encoding: checks what a Parquet file claims before anything is allocated for it.

/// Structs and lists in one another; Parquet's own metadata needs about ten.
const MOST_NESTED: usize = 32;

const KIND_BYTE: u8 = 3;
const KIND_I64: u8 = 6;
const KIND_DOUBLE: u8 = 7;
const KIND_BINARY: u8 = 8;
const KIND_LIST: u8 = 9;
const KIND_SET: u8 = 10;
const KIND_MAP: u8 = 11;
pub const KIND_STRUCT: u8 = 12;

pub struct Field {
    pub id: i64,
    pub kind: u8,
}

impl Field {
    /// The value of a boolean field, which its kind holds.
    pub fn is_true(&self) -> bool {
        self.kind == 1
    }
}

pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, size: u64) -> Result<&'a [u8], String> {
        if size > self.rest.len() as u64 {
            return Err("metadata ends early".into());
        }
        let (taken, rest) = self.rest.split_at(size as usize);
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn unsigned(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("metadata holds an integer of more than 64 bits".into())
    }

    pub fn integer(&mut self) -> Result<i64, String> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Calls `visit` for every field of a struct; it returns whether it read the field's value.
    pub fn fields(
        &mut self,
        mut visit: impl FnMut(&mut Self, &Field) -> Result<bool, String>,
    ) -> Result<(), String> {
        self.fields_at(0, &mut visit)
    }

    fn fields_at(
        &mut self,
        depth: usize,
        visit: &mut dyn FnMut(&mut Self, &Field) -> Result<bool, String>,
    ) -> Result<(), String> {
        let mut id = 0i64;
        loop {
            let head = self.byte()?;
            let kind = head & 0x0f;
            if kind == 0 {
                return Ok(());
            }
            id = if head >> 4 == 0 { self.integer()? } else { id.wrapping_add(i64::from(head >> 4)) };
            let field = Field { id, kind };
            if !visit(self, &field)? {
                self.skip(kind, depth + 1)?;
            }
        }
    }

    /// Elements and their kind; there are never more than bytes are left.
    pub fn list(&mut self) -> Result<(u64, u8), String> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.unsigned()? } else { u64::from(head >> 4) };
        if count > self.rest.len() as u64 {
            return Err("metadata claims a list longer than itself".into());
        }
        Ok((count, head & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<(), String> {
        if depth > MOST_NESTED {
            return Err("metadata is nested too deep".into());
        }
        match kind {
            1 | 2 => Ok(()),
            KIND_BYTE => self.byte().map(drop),
            4..=KIND_I64 => self.unsigned().map(drop),
            KIND_DOUBLE => self.take(8).map(drop),
            KIND_BINARY => {
                let size = self.unsigned()?;
                self.take(size).map(drop)
            }
            KIND_LIST | KIND_SET => {
                let (count, element) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(element, depth))
            }
            KIND_MAP => {
                let count = self.unsigned()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_for_each(|_| {
                    self.skip_element(kinds >> 4, depth)?;
                    self.skip_element(kinds & 0x0f, depth)
                })
            }
            KIND_STRUCT => self.fields_at(depth, &mut |_, _| Ok(false)),
            other => Err(format!("metadata holds a value of unknown kind {other}")),
        }
    }

    /// Booleans take a byte here.
    fn skip_element(&mut self, kind: u8, depth: usize) -> Result<(), String> {
        self.skip(if kind <= 2 { KIND_BYTE } else { kind }, depth + 1)
    }
}
