//! Rows of weights: their u16 form within a subnet's rules, the hash of a committed row, and a submitter that takes the path the chain asks for.
