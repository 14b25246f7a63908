//! Which blocks of a run are settled as a whole.

/// One bit a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super::super) struct Dead {
    blocks: u32,
    words: Vec<u64>,
}

impl Dead {
    /// None is.
    pub(super) fn new(blocks: u32) -> Self {
        Self { blocks, words: vec![0; blocks.div_ceil(64) as usize] }
    }

    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Takes these words; none where there are too many.
    pub(super) fn set_words(&mut self, from: u64, words: &[u64]) -> Option<()> {
        let from = usize::try_from(from).ok()?;
        self.words.get_mut(from..from.checked_add(words.len())?)?.copy_from_slice(words);
        Some(())
    }

    /// Whether this block is.
    pub(in super::super::super) fn has(&self, block: u32) -> bool {
        self.words[block as usize / 64] >> (block % 64) & 1 == 1
    }

    /// Notes that it is.
    pub(in super::super::super) fn add(&mut self, block: u32) {
        self.words[block as usize / 64] |= 1 << (block % 64);
    }
}
