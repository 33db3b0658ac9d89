import CKernel
import Glibc
import Kernel
import ProcessImage

/// The character devices of mem(4) that hold no state: null, zero, full, random, urandom.
enum DeviceDescriptor: DescriptorKind {
    struct Record: Codable { var path: String }
    static let name = "device"

    private static let memory: UInt32 = 1
    private static let minors: Set<UInt32> = [3, 5, 7, 8, 9]

    static func recognises(_ probe: DescriptorProbe) -> Bool {
        guard probe.mode & S_IFMT == S_IFCHR else { return false }
        // dev_t of glibc: 12 + 20 bits each of major and minor, makedev(3).
        let device = probe.specialDevice
        let major =
            UInt32(truncatingIfNeeded: (device >> 8) & 0xfff) | UInt32(truncatingIfNeeded: device >> 32) & ~0xfff
        let minor = UInt32(truncatingIfNeeded: device & 0xff) | UInt32(truncatingIfNeeded: device >> 12) & ~0xff
        return major == memory && minors.contains(minor)
    }

    static func check(_ probe: DescriptorProbe, in context: CheckContext) -> [Refusal] { [] }

    static func capture(_ probe: DescriptorProbe, in context: any CaptureContext) throws(ResourceError) -> Bytes {
        try Payload.encode(Record(path: probe.path), for: probe.subject)
    }

    static func restore(
        _ description: DescriptionImage, index: Int32, in embryo: any EmbryoPort, context: any RestoreContext
    ) throws(ResourceError) -> Int32 {
        let record = try Payload.decode(Record.self, from: description, index: index)
        return try step("pid \(embryo.pid) \(record.path)", "cannot be opened") { () throws(KernelError) in
            let flags = description.statusFlags & OpenFlag.reopenable
            return Int32(
                try embryo.call(
                    SYS_openat, .int(AT_FDCWD), .path(record.path), .int(flags), .int(0), on: record.path
                ).value)
        }
    }
}
