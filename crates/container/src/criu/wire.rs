//! Changing single fields of CRIU's images and keeping all others, whatever they mean.
//!
//! Source of the format: <https://protobuf.dev/programming-guides/encoding/>.

/// The fields of a message, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields(Vec<(u64, Value)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Fixed32([u8; 4]),
}

impl Fields {
    /// The message in `bytes`, if they are one.
    #[must_use]
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            let value = match tag & 7 {
                0 => Value::Varint(varint(&mut bytes)?),
                1 => Value::Fixed64(take(&mut bytes, 8)?.try_into().ok()?),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)?).ok()?;
                    Value::Bytes(take(&mut bytes, length)?.to_vec())
                }
                5 => Value::Fixed32(take(&mut bytes, 4)?.try_into().ok()?),
                _ => return None,
            };
            fields.push((tag >> 3, value));
        }
        Some(Self(fields))
    }

    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, value) in &self.0 {
            let mut tagged = |kind: u64| put(&mut bytes, number << 3 | kind);
            match value {
                Value::Varint(value) => {
                    tagged(0);
                    put(&mut bytes, *value);
                }
                Value::Fixed64(value) => {
                    tagged(1);
                    bytes.extend(value);
                }
                Value::Bytes(value) => {
                    tagged(2);
                    put(&mut bytes, value.len() as u64);
                    bytes.extend(value);
                }
                Value::Fixed32(value) => {
                    tagged(5);
                    bytes.extend(value);
                }
            }
        }
        bytes
    }

    /// The number in the first field `number`.
    #[must_use]
    pub fn number(&self, number: u64) -> Option<u64> {
        self.0.iter().find_map(|(known, value)| match value {
            Value::Varint(value) if *known == number => Some(*value),
            _ => None,
        })
    }

    /// Changes the first field `number`; nothing when there is none.
    pub fn set_number(&mut self, number: u64, new: u64) {
        if let Some((_, value)) = self.0.iter_mut().find(|(known, _)| *known == number) {
            *value = Value::Varint(new);
        }
    }

    /// The message in the first field `number`.
    #[must_use]
    pub fn message(&self, number: u64) -> Option<Self> {
        self.0.iter().find_map(|(known, value)| match value {
            Value::Bytes(bytes) if *known == number => Self::parse(bytes),
            _ => None,
        })
    }

    /// Changes the first field `number`; nothing when there is none.
    pub fn set_message(&mut self, number: u64, new: &Self) {
        if let Some((_, value)) = self.0.iter_mut().find(|(known, _)| *known == number) {
            *value = Value::Bytes(new.encode());
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Inner {
        #[prost(uint64, required, tag = "11")]
        ax: u64,
        #[prost(fixed64, required, tag = "12")]
        wide: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Outer {
        #[prost(uint32, required, tag = "1")]
        before: u32,
        #[prost(message, required, tag = "2")]
        inner: Inner,
        #[prost(fixed32, required, tag = "300")]
        narrow: u32,
        #[prost(string, required, tag = "4")]
        text: String,
    }

    #[test]
    fn one_field_changes_and_all_others_stay() {
        let inner = Inner { ax: u64::MAX - 3, wide: 7 };
        let mut outer = Outer { before: 300, inner, narrow: 9, text: "kept".into() };
        let mut fields = Fields::parse(&outer.encode_to_vec()).unwrap();
        let mut nested = fields.message(2).unwrap();
        assert_eq!(nested.number(11), Some(u64::MAX - 3));
        nested.set_number(11, 230);
        fields.set_message(2, &nested);
        outer.inner.ax = 230;
        assert_eq!(Outer::decode(&fields.encode()[..]).unwrap(), outer);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(Fields::parse(&[8]), None);
        assert_eq!(Fields::parse(&[0x12, 200, 1]), None);
        assert_eq!(Fields::parse(&[0xff; 12]), None);
        assert_eq!(Fields::parse(&[0x0b]), None, "groups are not used");
    }
}
