import Glibc
import Kernel
import ProcessImage

/// This kernel's own vdso(7), to compare with the one that a service's registers may point into.
public enum HostVdso {
    /// SHA-256 of the vdso's text.
    public static func digest() throws(KernelError) -> Bytes {
        let own = getpid()
        guard let vdso = try ProcMaps.read(pid: own).first(where: { $0.name == "[vdso]" }) else { return Bytes() }
        let text = try ProcessMemory.read(pid: own, address: vdso.start, count: Int(vdso.end - vdso.start))
        return Bytes(SHA256.digest(text))
    }
}
