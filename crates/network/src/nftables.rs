//! The few netlink messages with which a gate is set (linux/netfilter/nf_tables.h, nfnetlink.h; netlink(7)).
//!
//! The gate is a table of family `netdev` with two base chains on `eth0`, ingress and egress, that hold no rules: their
//! policy alone drops or accepts. One batch changes both policies at once.

use std::mem::size_of;

/// The table and its chains, as `nft list ruleset` shows them inside the container.
const TABLE: &str = "drover_gate";
const INGRESS: &str = "ingress";
const EGRESS: &str = "egress";

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_NETDEV: u8 = 5;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_HOOK_DEV: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;

/// Before every other hook on the link.
const PRIORITY: i32 = i32::MIN + 1;

/// What a chain does with every frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Drop = 0,
    Accept = 1,
}

/// A transaction: the kernel does all of it or nothing.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    next: u32,
    expected: Vec<u32>,
}

impl Batch {
    /// A batch whose messages are numbered from `first` on.
    fn begin(first: u32) -> Self {
        let mut batch = Self { bytes: Vec::with_capacity(512), next: first, expected: Vec::new() };
        batch.message(NFNL_MSG_BATCH_BEGIN, 0, NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES, |_| {});
        batch
    }

    fn end(mut self) -> Self {
        self.message(NFNL_MSG_BATCH_END, 0, NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES, |_| {});
        self
    }

    /// The messages, to be sent in one datagram.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The numbers of the messages that the kernel acknowledges.
    pub(crate) fn expected(&self) -> &[u32] {
        &self.expected
    }

    /// The number after the last one in use.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Appends a netlink header (length, type, flags, number, port), an nfgenmsg, and attributes.
    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend(self.next.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        attributes(&mut self.bytes);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.next = self.next.wrapping_add(1);
    }

    fn request(&mut self, kind: u16, flags: u16, attributes: impl FnOnce(&mut Vec<u8>)) {
        self.expected.push(self.next);
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        self.message(kind, flags | NLM_F_ACK, NFPROTO_NETDEV, 0, attributes);
    }
}

/// Appends one attribute: length, type, value, and padding to four bytes.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend(kind.to_ne_bytes());
    value(bytes);
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    attribute(bytes, kind, |bytes| {
        bytes.extend(value.as_bytes());
        bytes.push(0);
    });
}

/// Numbers in nf_tables are big-endian.
fn number(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(bytes, kind, |bytes| bytes.extend(value.to_be_bytes()));
}

/// Makes the table and both chains on `link`, with this policy. Numbered from `first` on.
pub(crate) fn load(link: &str, policy: Policy, first: u32) -> Batch {
    let mut batch = Batch::begin(first);
    batch.request(NFT_MSG_NEWTABLE, NLM_F_CREATE, |bytes| text(bytes, NFTA_TABLE_NAME, TABLE));
    // The hooks' numbers: NF_NETDEV_INGRESS, NF_NETDEV_EGRESS.
    for (hook, chain) in [(0, INGRESS), (1, EGRESS)] {
        batch.request(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |bytes| {
            text(bytes, NFTA_CHAIN_TABLE, TABLE);
            text(bytes, NFTA_CHAIN_NAME, chain);
            attribute(bytes, NFTA_CHAIN_HOOK | NLA_F_NESTED, |bytes| {
                number(bytes, NFTA_HOOK_HOOKNUM, hook);
                number(bytes, NFTA_HOOK_PRIORITY, PRIORITY as u32);
                text(bytes, NFTA_HOOK_DEV, link);
            });
            number(bytes, NFTA_CHAIN_POLICY, policy as u32);
            text(bytes, NFTA_CHAIN_TYPE, "filter");
        });
    }
    batch.end()
}

/// Changes the policy of both chains. Numbered from `first` on.
pub(crate) fn change(policy: Policy, first: u32) -> Batch {
    let mut batch = Batch::begin(first);
    for chain in [INGRESS, EGRESS] {
        batch.request(NFT_MSG_NEWCHAIN, 0, |bytes| {
            text(bytes, NFTA_CHAIN_TABLE, TABLE);
            text(bytes, NFTA_CHAIN_NAME, chain);
            number(bytes, NFTA_CHAIN_POLICY, policy as u32);
        });
    }
    batch.end()
}

/// An answer of the kernel: which message it is about, and the error number, 0 for success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub number: u32,
    pub errno: i32,
}

/// The answers in a datagram; what is no acknowledgement or error is skipped.
pub(crate) fn answers(datagram: &[u8]) -> Vec<Answer> {
    const HEADER: usize = 16;
    let mut found = Vec::new();
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let word =
            |at: usize| rest.get(at..at + size_of::<u32>()).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        let length = word(0).map_or(0, |length| length as usize);
        if length < HEADER || length > rest.len() {
            break;
        }
        if u16::from_ne_bytes([rest[4], rest[5]]) == NLMSG_ERROR
            && let (Some(number), Some(errno)) = (word(8), word(HEADER))
        {
            found.push(Answer { number, errno: (errno as i32).wrapping_neg() });
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_policy_has_these_bytes() {
        let batch = change(Policy::Drop, 7);
        let chain = |number: u8, name: &[u8], padded: usize| {
            let mut attributes = vec![16, 0, 1, 0];
            attributes.extend(b"drover_gate\0");
            attributes.extend([4 + name.len() as u8, 0, 3, 0]);
            attributes.extend(name);
            attributes.resize(16 + 4 + padded, 0);
            attributes.extend([8, 0, 5, 0, 0, 0, 0, 0]);
            let mut message = vec![20 + attributes.len() as u8, 0, 0, 0, 3, 10, 5, 0, number, 0, 0, 0, 0, 0, 0, 0];
            message.extend([5, 0, 0, 0]);
            message.extend(attributes);
            message
        };
        let mut expected = vec![20, 0, 0, 0, 16, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];
        expected.extend(chain(8, b"ingress\0", 8));
        expected.extend(chain(9, b"egress\0", 8));
        expected.extend([20, 0, 0, 0, 17, 0, 1, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]);
        assert_eq!(batch.bytes(), expected);
        assert_eq!(batch.expected(), [8, 9]);
        assert_eq!(batch.next(), 11);
    }

    #[test]
    fn every_message_of_a_load_is_aligned_and_acknowledged() {
        let batch = load("eth0", Policy::Accept, 1);
        let mut rest = batch.bytes();
        let mut kinds = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            assert_eq!(length % 4, 0);
            kinds.push(u16::from_ne_bytes(rest[4..6].try_into().unwrap()));
            rest = &rest[length..];
        }
        assert_eq!(kinds, [16, 0xa00, 0xa03, 0xa03, 17]);
        assert_eq!(batch.expected(), [2, 3, 4]);
    }

    #[test]
    fn answers_are_read_and_damaged_ones_end_the_reading() {
        let mut datagram = vec![36, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        datagram.extend((-2i32).to_ne_bytes());
        datagram.extend([0; 16]);
        assert_eq!(answers(&datagram), [Answer { number: 9, errno: 2 }]);
        assert_eq!(answers(&datagram[..20]), []);
        let mut hostile = datagram.clone();
        hostile[0] = 3;
        assert_eq!(answers(&hostile), []);
        assert_eq!(answers(&[0xff; 7]), []);
    }
}
