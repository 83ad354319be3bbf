//! Stand-in.
/// Stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Stand-in.
    None,
}
/// Stand-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRecord;
