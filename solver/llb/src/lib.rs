//! LLB bytes to Definition and back, capabilities, and the graph builder.
