//! drover-agent.
