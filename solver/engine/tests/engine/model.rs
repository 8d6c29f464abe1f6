//! Random graphs, several jobs at once, random cancels and prunes, compared with plain recursion: every build ends, every
//! value is right, nothing runs twice for one key.
