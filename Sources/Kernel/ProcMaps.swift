import CKernel
import Glibc

/// One mapping as /proc/PID/smaps or /proc/PID/maps shows it, proc_pid_maps(5).
public struct MappingLine: Equatable, Sendable {
    public var start: UInt64 = 0
    public var end: UInt64 = 0
    /// PROT_READ | PROT_WRITE | PROT_EXEC.
    public var protection: Int32 = 0
    public var isShared = false
    public var offset: UInt64 = 0
    /// As st_dev, makedev(3).
    public var device: UInt64 = 0
    public var inode: UInt64 = 0
    /// The name as shown, with the kernel's `\012` escapes undone.
    public var name = ""
    /// Words of the VmFlags line; empty when only maps was read.
    public var flags: [String] = []
    /// `ProtectionKey:` of smaps; 0 where the processor has none.
    public var protectionKey: UInt32 = 0
}

public enum ProcMaps {
    /// The mappings of a process with their flags, from smaps.
    public static func readDetailed(pid: Int32) throws(KernelError) -> [MappingLine] {
        parse(try Files.read("/proc/\(pid)/smaps"))
    }

    /// The mappings of a process without flags, from maps: much cheaper, for it need not walk page tables.
    public static func read(pid: Int32) throws(KernelError) -> [MappingLine] {
        parse(try Files.read("/proc/\(pid)/maps"))
    }

    /// Lines that are neither a mapping nor one of the wanted details are passed over.
    public static func parse(_ text: [UInt8]) -> [MappingLine] {
        var result: [MappingLine] = []
        let flagsKey = [UInt8]("VmFlags:".utf8)
        let protectionKey = [UInt8]("ProtectionKey:".utf8)
        for line in text.split(separator: UInt8(ascii: "\n")) {
            guard let first = line.first else { continue }
            if first >= UInt8(ascii: "A"), first <= UInt8(ascii: "Z") {
                guard let last = result.indices.last else { continue }
                if line.starts(with: flagsKey) {
                    let words = line.dropFirst(flagsKey.count).split(separator: UInt8(ascii: " "))
                    result[last].flags = words.map { String(decoding: $0, as: UTF8.self) }
                } else if line.starts(with: protectionKey) {
                    let word = line.dropFirst(protectionKey.count).drop { $0 == UInt8(ascii: " ") }
                    result[last].protectionKey = UInt32(String(decoding: word, as: UTF8.self)) ?? 0
                }
            } else if let mapping = mapping(line) {
                result.append(mapping)
            }
        }
        return result
    }

    /// `55d0-55d8 r-xp 00001000 fe:00 1234    /usr/bin/x`
    private static func mapping(_ line: ArraySlice<UInt8>) -> MappingLine? {
        var rest = line
        func word() -> ArraySlice<UInt8> {
            let piece = rest.prefix { $0 != UInt8(ascii: " ") }
            rest = rest.dropFirst(piece.count).drop { $0 == UInt8(ascii: " ") }
            return piece
        }
        let range = word().split(separator: UInt8(ascii: "-"))
        let permissions = [UInt8](word())
        guard range.count == 2, permissions.count == 4, let start = hexadecimal(range[0]),
            let end = hexadecimal(range[1]), let offset = hexadecimal(word())
        else { return nil }
        let device = word().split(separator: UInt8(ascii: ":"))
        guard device.count == 2, let major = hexadecimal(device[0]), let minor = hexadecimal(device[1]),
            let inode = UInt64(String(decoding: word(), as: UTF8.self))
        else { return nil }
        var mapping = MappingLine()
        mapping.start = start
        mapping.end = end
        if permissions[0] == UInt8(ascii: "r") { mapping.protection |= PROT_READ }
        if permissions[1] == UInt8(ascii: "w") { mapping.protection |= PROT_WRITE }
        if permissions[2] == UInt8(ascii: "x") { mapping.protection |= PROT_EXEC }
        mapping.isShared = permissions[3] == UInt8(ascii: "s")
        mapping.offset = offset
        mapping.device = deviceNumber(major, minor)
        mapping.inode = inode
        mapping.name = unescape(rest)
        return mapping
    }

    /// makedev(3), which is a macro.
    public static func deviceNumber(_ major: UInt64, _ minor: UInt64) -> UInt64 {
        (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff
    }

    private static func hexadecimal(_ digits: ArraySlice<UInt8>) -> UInt64? {
        var value: UInt64 = 0
        guard !digits.isEmpty, digits.count <= 16 else { return nil }
        for digit in digits {
            switch digit {
            case 48...57: value = value << 4 | UInt64(digit - 48)
            case 97...102: value = value << 4 | UInt64(digit - 87)
            default: return nil
            }
        }
        return value
    }

    /// Only a line feed is escaped in maps.
    private static func unescape(_ name: ArraySlice<UInt8>) -> String {
        let text = String(decoding: name, as: UTF8.self)
        let pieces = text.split(separator: "\\012", omittingEmptySubsequences: false)
        return pieces.count == 1 ? text : pieces.joined(separator: "\n")
    }
}
