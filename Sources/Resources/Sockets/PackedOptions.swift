import Kernel
import ProcessImage

/// Options of a socket and their values in one run of bytes: level, name and length (16 bits each, little-endian) and
/// the value, again and again. A connection has seventy of them and a service thousands of connections, so no option
/// is an object of its own.
struct PackedOptions: Codable {
    struct Option: Equatable {
        var level: Int32
        var name: Int32
        var value: ArraySlice<UInt8>
    }

    private var packed: [UInt8] = []

    init() {}

    /// Everything must be whole: what follows may rely on it.
    init(from decoder: any Decoder) throws {
        packed = try Bytes(from: decoder).content
        var at = 0
        while at < packed.count {
            guard packed.count - at >= 6, packed.count - at - 6 >= word(at + 4) else {
                throw WireError.truncated(at: packed.count)
            }
            at += 6 + word(at + 4)
        }
    }

    func encode(to encoder: any Encoder) throws { try Bytes(packed).encode(to: encoder) }

    private func word(_ at: Int) -> Int { Int(packed[at]) | Int(packed[at + 1]) << 8 }

    /// Adds the option's value at `socket`; false if this kernel or this kind of socket does not know it, and never
    /// will. `buffer` has room for any.
    mutating func read(
        _ entry: SocketOption.Entry, of socket: borrowing FileDescriptor, _ buffer: inout [UInt8]
    ) -> Bool {
        do throws(KernelError) {
            let length = try Socket.option(socket, entry.level, entry.name, limit: entry.size, into: &buffer)
            append(entry.level, entry.name, buffer[..<length])
            return true
        } catch {
            // ENOPROTOOPT, EOPNOTSUPP; other errors are those of a state.
            return ![92, 95].contains(error.code.rawValue)
        }
    }

    mutating func append(_ level: Int32, _ name: Int32, _ value: ArraySlice<UInt8>) {
        for number in [level, name, Int32(value.count)] {
            packed.append(UInt8(truncatingIfNeeded: number))
            packed.append(UInt8(truncatingIfNeeded: number >> 8))
        }
        packed.append(contentsOf: value)
    }

    /// Calls `body` with each option, in order.
    func forEach(_ body: (Option) throws(KernelError) -> Void) throws(KernelError) {
        var at = 0
        while at < packed.count {
            let end = at + 6 + word(at + 4)
            try body(Option(level: Int32(word(at)), name: Int32(word(at + 2)), value: packed[at + 6..<end]))
            at = end
        }
    }

    /// The value of one option, if it is among them.
    func value(_ level: Int32, _ name: Int32) -> [UInt8]? {
        var found: [UInt8]?
        try? forEach { if $0.level == level && $0.name == name { found = Array($0.value) } }
        return found
    }

    /// Sets those that differ from what a new socket has: an option at its default is never touched.
    ///
    /// - Parameter defaults: what former sockets of the same family had at the same stage; none for the first.
    func apply(
        to socket: borrowing FileDescriptor, besides excluded: (level: Int32, name: Int32)? = nil,
        defaults: OptionDefaults? = nil
    ) throws(KernelError) {
        var now = [UInt8](repeating: 0, count: 64)
        var isAsOthers = true
        try forEach { option throws(KernelError) in
            if let excluded, option.level == excluded.level, option.name == excluded.name { return }
            if isAsOthers, defaults?.contains(option) ?? false { return }
            let limit = max(option.value.count, 4)
            if let length = try? Socket.option(socket, option.level, option.name, limit: limit, into: &now) {
                defaults?.learn(option, now[..<length])
                if now[..<length] == option.value { return }
            }
            // Options that change others: those have another default from here on.
            if OptionDefaults.changesOthers(option) { isAsOthers = false }
            do throws(KernelError) {
                try Socket.setOption(socket, option.level, option.name, Array(option.value))
            } catch  where option.level == SocketOption.tcp && option.name == SocketOption.congestion {
                // A congestion control that this host has not: the host's own serves as well.
            }
        }
    }
}

/// What the options of new sockets of one family are at one stage of their making: asked of the first, for all.
final class OptionDefaults {
    private struct Key: Hashable {
        var level: Int32
        var name: Int32
    }
    private var values: [Key: [UInt8]] = [:]

    func contains(_ option: PackedOptions.Option) -> Bool {
        guard let value = values[Key(level: option.level, name: option.name)] else { return false }
        return option.value.elementsEqual(value)
    }

    /// WINDOW_CLAMP is each connection's own.
    func learn(_ option: PackedOptions.Option, _ value: ArraySlice<UInt8>) {
        if option.level == SocketOption.tcp && option.name == 10 { return }
        let key = Key(level: option.level, name: option.name)
        if values[key] == nil { values[key] = Array(value) }
    }

    /// TOS and TCLASS set SO_PRIORITY, a congestion control sets options of TCP.
    static func changesOthers(_ option: PackedOptions.Option) -> Bool {
        switch (option.level, option.name) {
        case (SocketOption.ip, 1), (SocketOption.ipv6, 67), (SocketOption.tcp, SocketOption.congestion): true
        default: false
        }
    }
}
