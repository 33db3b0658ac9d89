import Kernel

extension DescriptorProbe {
    /// The value of `name:` in fdinfo, without surrounding blanks; proc_pid_fdinfo(5).
    public func detail(_ name: String) -> String? {
        for line in details where line.hasPrefix(name + ":") {
            return Self.trimmed(line.dropFirst(name.count + 1))
        }
        return nil
    }

    /// All values of `name:`, in order.
    func allDetails(_ name: String) -> [String] {
        details.filter { $0.hasPrefix(name + ":") }.map { Self.trimmed($0.dropFirst(name.count + 1)) }
    }

    private static func trimmed(_ text: Substring) -> String {
        // On the bytes: an epoll set has a line for each of thousands of connections.
        func isBlank(_ byte: UInt8) -> Bool { byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") }
        let bytes = text.utf8.drop(while: isBlank)
        guard let last = bytes.lastIndex(where: { !isBlank($0) }) else { return "" }
        return String(text[bytes.startIndex...last])
    }

    /// The path that the link shows, without the kernel's mark of an unlinked file.
    var path: String { isUnlinked ? String(link.dropLast(10)) : link }
    var isUnlinked: Bool { link.hasSuffix(" (deleted)") }

    func refusal(_ why: String, remedy: String) -> Refusal {
        Refusal(pid: pid, subject: "fd \(number)", object: link, why: why, remedy: remedy)
    }

    func malformed(_ what: String) -> ResourceError {
        ResourceError(subject, "the kernel's fdinfo has no readable `\(what)`")
    }
}

/// Runs a step, adding the resource's name to the kernel's answer.
func step<Value: ~Copyable>(
    _ subject: @autoclosure () -> String, _ problem: @autoclosure () -> String,
    _ body: () throws(KernelError) -> Value
) throws(ResourceError) -> Value {
    do { return try body() } catch { throw ResourceError(subject(), problem(), cause: error) }
}

extension FileSystemType {
    /// Nil when the descriptor is closed by now.
    static func of(_ probe: DescriptorProbe) -> FileSystemType? {
        try? FileSystemType(at: "/proc/\(probe.pid)/fd/\(probe.number)")
    }
}
