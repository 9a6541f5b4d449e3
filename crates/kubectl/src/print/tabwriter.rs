//! Columns as Go's `text/tabwriter` makes them: a cell that a tab ends is as wide as the widest of its block, which are the lines
//! above and below that have such a cell, too. The last cell of a line is never padded.

/// A layout: least width of a cell, and what stands between cells.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub min: usize,
    pub padding: usize,
}

/// Tables of `get`.
pub const TABLE: Layout = Layout { min: 6, padding: 3 };
/// Texts of `describe`.
pub const DESCRIBE: Layout = Layout { min: 0, padding: 2 };

/// Lays lines of cells with tabs out. `remembered` are widths that columns had before, and keep.
pub fn format(text: &str, layout: Layout, remembered: Option<&mut Vec<usize>>) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(1).saturating_sub(1);
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|line| vec![0; line.len().saturating_sub(1)]).collect();
    let mut none = Vec::new();
    let is_remembered = remembered.is_some();
    let remembered = remembered.unwrap_or(&mut none);
    for column in 0..columns {
        let mut at = 0;
        while at < lines.len() {
            if lines[at].len() <= column.saturating_add(1) {
                at = at.saturating_add(1);
                continue;
            }
            let end = (at..lines.len()).find(|i| lines[*i].len() <= column.saturating_add(1)).unwrap_or(lines.len());
            let widest =
                lines[at..end].iter().map(|line| line[column].chars().count().saturating_add(layout.padding)).max();
            let mut width = widest.unwrap_or(0).max(layout.min);
            if is_remembered {
                if remembered.len() <= column {
                    remembered.resize(column.saturating_add(1), 0);
                }
                width = width.max(remembered[column]);
                remembered[column] = width;
            }
            for own in &mut widths[at..end] {
                own[column] = width;
            }
            at = end;
        }
    }
    let mut out = String::with_capacity(text.len().saturating_mul(2));
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        for (column, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths[i].get(column) {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_as_wide_as_their_block() {
        assert_eq!(format("A\tB\nlonger\tx\n", TABLE, None), "A        B\nlonger   x\n");
        // A line without tabs ends the block.
        assert_eq!(format("a\tb\nx\nlonger\tc\n", DESCRIBE, None), "a  b\nx\nlonger  c\n");
        // An empty last cell leaves the padding of the one before it.
        assert_eq!(format("a\t\nbb\tc\n", DESCRIBE, None), "a   \nbb  c\n");
        let mut widths = Vec::new();
        format("wide one\tx\n", TABLE, Some(&mut widths));
        assert_eq!(format("a\tx\n", TABLE, Some(&mut widths)), "a          x\n");
    }
}
