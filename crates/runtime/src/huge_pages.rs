//! Huge pages (KEP-1539), which an administrator reserves at the machine's start or by
//! `/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`.

use std::path::Path;

const FOLDER: &str = "/sys/kernel/mm/hugepages";
const KIB: u64 = 1 << 10;
/// Prefixes of binary units from 1024 up.
const UNITS: [char; 4] = ['K', 'M', 'G', 'T'];

/// The sizes of huge pages that this machine has, in bytes, the smallest first.
pub fn sizes() -> Vec<u64> {
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let size = |name: &str| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok();
    let mut sizes: Vec<u64> = entries.filter_map(|e| Some(size(e.file_name().to_str()?)? * KIB)).collect();
    sizes.sort_unstable();
    sizes
}

/// How much of the memory is set aside for pages of a size, in bytes.
pub fn set_aside(size: u64) -> u64 {
    let file = Path::new(FOLDER).join(format!("hugepages-{}kB", size / KIB)).join("nr_hugepages");
    let count =
        bounded::text(file, bounded::MAX_KERNEL_FILE_BYTES).ok().and_then(|text| text.trim().parse::<u64>().ok());
    count.unwrap_or(0) * size
}

/// A size with its unit's prefix: 2 and `M` for 2 MiB.
fn parts(size: u64) -> (u64, char) {
    let unit = (1..UNITS.len()).rev().find(|unit| size.is_multiple_of(KIB.pow(*unit as u32 + 1))).unwrap_or(0);
    (size / KIB.pow(unit as u32 + 1), UNITS[unit])
}

/// What pods ask for: `hugepages-2Mi`.
pub fn resource(size: u64) -> String {
    let (number, unit) = parts(size);
    format!("hugepages-{number}{unit}i")
}

/// As cgroups name it: `2MB` (hugetlb.rst, cgroup-v1).
pub fn in_cgroups(size: u64) -> String {
    let (number, unit) = parts(size);
    format!("{number}{unit}B")
}

/// As hugetlbfs names it: `2M` (hugetlbpage.rst).
pub fn in_mounts(size: u64) -> String {
    let (number, unit) = parts(size);
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_name_for_each_who_asks() {
        let names = |size| (resource(size), in_cgroups(size), in_mounts(size));
        let want = |a: &str, b: &str, c: &str| (a.to_string(), b.to_string(), c.to_string());
        assert_eq!(names(64 << 10), want("hugepages-64Ki", "64KB", "64K"));
        assert_eq!(names(2 << 20), want("hugepages-2Mi", "2MB", "2M"));
        assert_eq!(names(512 << 20), want("hugepages-512Mi", "512MB", "512M"));
        assert_eq!(names(1 << 30), want("hugepages-1Gi", "1GB", "1G"));
    }
}
