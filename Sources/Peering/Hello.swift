import CKernel
import Glibc
import Kernel

/// Appends little-endian integers and length-prefixed strings.
struct ByteWriter {
    private(set) var bytes: [UInt8] = []

    mutating func put<Value: FixedWidthInteger>(_ value: Value) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    /// A byte of length, then UTF-8; longer text is cut at 255 bytes.
    mutating func put(_ text: String) {
        let utf8 = text.utf8.prefix(255)
        put(UInt8(utf8.count))
        bytes.append(contentsOf: utf8)
    }
}

/// Reads what `ByteWriter` wrote; nil once bytes are short.
struct ByteReader {
    private var bytes: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { self.bytes = bytes[...] }

    var isAtEnd: Bool { bytes.isEmpty }

    mutating func get<Value: FixedWidthInteger>(_: Value.Type) -> Value? {
        let size = MemoryLayout<Value>.size
        guard bytes.count >= size else { return nil }
        var value: Value = 0
        for byte in bytes.prefix(size).reversed() {
            // A shift by the whole width gives 0.
            value = value << 8 | Value(truncatingIfNeeded: byte)
        }
        bytes = bytes.dropFirst(size)
        return value
    }

    mutating func text() -> String? {
        guard let count = get(UInt8.self), bytes.count >= Int(count) else { return nil }
        let text = String(validating: bytes.prefix(Int(count)), as: UTF8.self)
        bytes = bytes.dropFirst(Int(count))
        return text
    }
}

/// The first message of each end: what it speaks, who it is and what its clocks show.
public struct Hello: Equatable, Sendable {
    static let messageType: UInt16 = 0
    static let sizeLimit = 64 << 10

    /// The versions of the protocol above the framing that this end speaks.
    public var versions: ClosedRange<UInt16>
    public var nodeName: String
    /// Names of optional abilities; an unknown name is ignored.
    public var features: [String]
    /// The kernel's tick rate, CONFIG_HZ, 1/s.
    public var hertz: UInt32
    /// CLOCK_REALTIME and CLOCK_MONOTONIC when the message was made, ns.
    public var realtime: Int64
    public var monotonic: Int64

    /// What this program speaks.
    public static let currentVersions: ClosedRange<UInt16> = 2...2

    /// This node's Hello with fresh clock readings.
    public static func current(
        nodeName: String, features: [String], versions: ClosedRange<UInt16> = currentVersions
    ) -> Hello {
        Hello(
            versions: versions, nodeName: nodeName, features: features, hertz: kernelHertz(),
            realtime: Clock.realtime, monotonic: Clock.monotonic)
    }

    /// CONFIG_HZ: the resolution of the coarse clocks is one tick (kernel/time/posix-timers.c, KTIME_LOW_RES).
    static func kernelHertz() -> UInt32 {
        var tick = timespec()
        guard clock_getres(CLOCK_MONOTONIC_COARSE, &tick) == 0, tick.tv_nsec > 0 else { return 0 }
        return UInt32((1_000_000_000 + tick.tv_nsec / 2) / tick.tv_nsec)
    }

    func encoded() -> [UInt8] {
        var writer = ByteWriter()
        writer.put(versions.lowerBound)
        writer.put(versions.upperBound)
        writer.put(hertz)
        writer.put(realtime)
        writer.put(monotonic)
        writer.put(nodeName)
        writer.put(UInt16(features.count))
        for feature in features { writer.put(feature) }
        return writer.bytes
    }

    /// Bytes after the last known field are allowed: a later version may append.
    static func decode(_ bytes: [UInt8]) throws(PeeringError) -> Hello {
        var reader = ByteReader(bytes)
        guard let low = reader.get(UInt16.self), let high = reader.get(UInt16.self),
            let hertz = reader.get(UInt32.self), let realtime = reader.get(Int64.self),
            let monotonic = reader.get(Int64.self), let name = reader.text(), let count = reader.get(UInt16.self)
        else { throw .malformedHello("\(bytes.count) bytes are too short") }
        guard low <= high else { throw .malformedHello("versions \(low) to \(high)") }
        var features: [String] = []
        for _ in 0..<count {
            guard let feature = reader.text() else { throw .malformedHello("feature list is cut") }
            features.append(feature)
        }
        return Hello(
            versions: low...high, nodeName: name, features: features, hertz: hertz, realtime: realtime,
            monotonic: monotonic)
    }
}
